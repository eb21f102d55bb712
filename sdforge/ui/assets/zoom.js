// A picture seen nearer: zoomed, moved, over the whole window. Only what is seen changes; what is painted has
// the picture's own pixels.
//
// Alt or Shift with the wheel zooms, over the whole window the wheel alone; F or the space bar held, or the middle
// button, moves; two fingers do both.

const STEP = 1.2;
const [LEAST, MOST] = [1, 32];
// As much of the picture stays in sight.
const MARGIN_PX = 40;

export class PictureView {
  // `painter` returns what paints now, or null; `resizeBrush` is asked to make the brush larger by a factor.
  constructor({ painter, resizeBrush, onFull }) {
    Object.assign(this, { painter, resizeBrush, onFull });
    this.fingers = new Map();
    this.isFull = false;
    Object.assign(this, { zoom: 1, left: 0, top: 0 });
    document.addEventListener("keyup", ({ key }) => [" ", "f"].includes(key.toLowerCase()) && this.hold(false));
    window.addEventListener("blur", () => this.hold(false));
  }

  // `area` keeps its place, `frame` in it is what is moved.
  attach(area, frame, resetButton) {
    if (this.area === area) return;
    Object.assign(this, { area, frame, resetButton });
    const whenCaught = { capture: true };
    area.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    area.addEventListener("pointerdown", (event) => this.press(event), whenCaught);
    area.addEventListener("pointermove", (event) => this.move(event), whenCaught);
    for (const name of ["pointerup", "pointercancel"]) area.addEventListener(name, (event) => this.release(event), whenCaught);
    area.addEventListener("pointerenter", () => { this.isOver = true; });
    area.addEventListener("pointerleave", () => { this.isOver = false; });
    // Else the middle button begins the browser's own scrolling.
    area.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
    this.place();
  }

  // Whether keys are for the picture.
  hasKeys() {
    return this.isFull || Boolean(this.area && (this.isOver || this.area.contains(document.activeElement)));
  }

  reset() {
    Object.assign(this, { zoom: 1, left: 0, top: 0 });
    this.place();
  }

  setFull(isFull) {
    if (this.isFull === isFull) return;
    this.isFull = isFull;
    this.onFull(isFull);
    this.reset();
  }

  hold(isHeld) {
    // A key that is held repeats.
    if (Boolean(this.isHeld) === isHeld) return;
    this.isHeld = isHeld;
    this.last = null;
    this.area?.classList.toggle("moving", isHeld);
  }

  place() {
    if (!this.frame) return;
    const [room, size] = [this.area.getBoundingClientRect(), [this.frame.offsetWidth, this.frame.offsetHeight]];
    const most = [room.width, room.height].map((length, axis) => Math.max(0, (length + size[axis] * this.zoom) / 2 - MARGIN_PX));
    if (this.zoom === 1) this.left = this.top = 0;
    this.left = Math.min(most[0], Math.max(-most[0], this.left));
    this.top = Math.min(most[1], Math.max(-most[1], this.top));
    this.frame.style.transform = this.zoom === 1 ? "" : `translate(${this.left}px, ${this.top}px) scale(${this.zoom})`;
    if (this.resetButton) this.resetButton.disabled = this.zoom === 1;
  }

  // Zooms so that the point of the picture below the pointer stays there.
  zoomBy(factor, { clientX, clientY }) {
    const next = Math.min(MOST, Math.max(LEAST, this.zoom * factor));
    const [x, y] = this.fromMiddle(clientX, clientY);
    this.left = x - ((x - this.left) * next) / this.zoom;
    this.top = y - ((y - this.top) * next) / this.zoom;
    this.zoom = next < LEAST * 1.01 ? 1 : next;
    this.place();
  }

  // Counted from where the middle of the frame is when it is not moved.
  fromMiddle(x, y) {
    const now = this.frame.getBoundingClientRect();
    return [x - (now.left + now.width / 2 - this.left), y - (now.top + now.height / 2 - this.top)];
  }

  moveBy(x, y) {
    this.left += x;
    this.top += y;
    this.place();
  }

  wheel(event) {
    if (this.frame.hidden) return;
    // Chromium turns a wheel with Shift sideways.
    const turned = event.deltaY || event.deltaX;
    const isNearer = turned < 0;
    if (event.ctrlKey || event.metaKey) {
      if (!this.painter()) return;
      event.preventDefault();
      this.resizeBrush(isNearer ? STEP : 1 / STEP, event);
    } else if (event.altKey || event.shiftKey || this.isFull) {
      event.preventDefault();
      if (turned) this.zoomBy(isNearer ? STEP : 1 / STEP, event);
    }
  }

  press(event) {
    if (event.pointerType === "touch") this.touch(event);
    else if (event.button === 1 && !this.frame.hidden) {
      event.preventDefault();
      event.stopPropagation();
      this.area.setPointerCapture(event.pointerId);
      this.isDragged = true;
      this.last = event;
    }
    if (this.isHeld) event.stopPropagation();
  }

  move(event) {
    if (event.pointerType === "touch") {
      this.pinch(event);
      return;
    }
    if (!this.isHeld && !this.isDragged) return;
    event.stopPropagation();
    if (this.last) this.moveBy(event.clientX - this.last.clientX, event.clientY - this.last.clientY);
    this.last = event;
  }

  release(event) {
    this.isDragged = false;
    if (!this.isHeld) this.last = null;
    if (!this.fingers.delete(event.pointerId)) return;
    if (!this.fingers.size) this.isPinching = false;
  }

  // --- two fingers ------------------------------------------------------------------------------

  touch(event) {
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.fingers.size < 2) return;
    this.isPinching = true;
    this.painter()?.drop();
    event.stopPropagation();
  }

  pinch(event) {
    if (!this.isPinching || !this.fingers.has(event.pointerId)) return;
    event.stopPropagation();
    const before = this.grip();
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const after = this.grip();
    if (!before || !after) return;
    this.moveBy(after.x - before.x, after.y - before.y);
    this.zoomBy(after.apart / before.apart, { clientX: after.x, clientY: after.y });
  }

  // The middle of two fingers, and how far they are apart.
  grip() {
    if (this.fingers.size !== 2) return null;
    const [one, other] = this.fingers.values();
    return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, apart: Math.hypot(one.x - other.x, one.y - other.y) || 1 };
  }
}
