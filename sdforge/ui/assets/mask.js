// A mask painted over a picture: strokes of a round brush; with Shift or the right button they erase.
//
// The canvas has the picture's own pixels, whatever size it is shown at. Strokes are kept as lists of
// points, so taking one back draws the others anew. A sketch is painted in the same way, in colours.

const COLOUR = "#f4f4f4";

export class MaskPainter {
  constructor() {
    this.strokes = [];
    this.base = null;
    this.size = [1, 1];
    this.canvas = null;
  }

  // Begins an empty mask for a picture of this size.
  begin(width, height) {
    this.size = [width, height];
    this.strokes = [];
    this.base = null;
    this.draw();
  }

  // `mayPaint` says whether a press of the pointer is a stroke.
  attach(canvas, cursor, slider, mayPaint) {
    if (this.canvas === canvas) return;
    Object.assign(this, { canvas, cursor, slider, mayPaint });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { this.stroke = null; });
    }
    canvas.addEventListener("pointerleave", () => { cursor.hidden = true; });
    canvas.addEventListener("contextmenu", (event) => mayPaint() && event.preventDefault());
    this.draw();
  }

  colour() {
    return COLOUR;
  }

  // Pixels of the picture for one on screen.
  scale() {
    return this.size[0] / (this.canvas.getBoundingClientRect().width || 1);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.scale(), (event.clientY - box.top) * this.scale()];
  }

  press(event) {
    if (!this.mayPaint()) return;
    event.preventDefault();
    this.canvas.closest("[tabindex]")?.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const width = Number(this.slider.value) * this.scale();
    const colour = this.colour();
    this.stroke = { width, colour, erases: event.shiftKey || event.button === 2, points: [this.point(event)] };
    this.strokes.push(this.stroke);
    this.paint(this.stroke, 0);
  }

  move(event) {
    if (!this.mayPaint()) return;
    this.showCursor(event);
    if (!this.stroke) return;
    const from = this.stroke.points.length - 1;
    const events = event.getCoalescedEvents?.() || [];
    for (const one of events.length ? events : [event]) this.stroke.points.push(this.point(one));
    this.paint(this.stroke, from);
  }

  showCursor(event) {
    this.cursor.hidden = event.pointerType === "touch";
    const area = this.cursor.parentElement.getBoundingClientRect();
    const size = Number(this.slider.value);
    this.cursor.style.width = this.cursor.style.height = `${size}px`;
    this.cursor.style.left = `${event.clientX - area.left - size / 2}px`;
    this.cursor.style.top = `${event.clientY - area.top - size / 2}px`;
  }

  resize(factor) {
    const size = Number(this.slider.value);
    const wanted = factor > 1 ? Math.max(size + 1, size * factor) : Math.min(size - 1, size * factor);
    this.slider.value = String(Math.round(wanted));
  }

  undo() {
    this.strokes.pop();
    this.draw();
  }

  clear() {
    this.strokes = [];
    this.base = null;
    this.draw();
  }

  // Two painters may share a canvas; the one that may paint is seen.
  draw() {
    if (!this.canvas || !this.mayPaint()) return;
    [this.canvas.width, this.canvas.height] = this.size;
    const context = pen(this.canvas);
    if (this.base) context.drawImage(this.base, 0, 0);
    for (const stroke of this.strokes) this.paint(stroke, 0);
  }

  // Paints a stroke from one of its points on.
  paint({ width, colour, erases, points }, from) {
    const context = pen(this.canvas);
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = colour || COLOUR;
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[from]);
    // A line of no length is a dot.
    for (const point of points.slice(from)) context.lineTo(...point);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  // Takes a stored mask as the ground that strokes go over.
  async load(source) {
    const picture = new Image();
    picture.src = source;
    await picture.decode();
    const ground = sheet(this.size);
    const context = pen(ground);
    context.drawImage(picture, 0, 0, ...this.size);
    this.readGround(context);
    this.base = ground;
    this.draw();
  }

  // A stored mask is white on black; here it is a cover of one colour.
  readGround(context) {
    const data = context.getImageData(0, 0, ...this.size);
    for (let at = 0; at < data.data.length; at += 4) {
      data.data[at + 3] = data.data[at];
      data.data.fill(244, at, at + 3);
    }
    context.putImageData(data, 0, 0);
  }

  // The mask as a PNG, white on black; null when nothing is painted.
  async toBlob() {
    if (!this.canvas) return null;
    const [width, height] = this.size;
    const painted = pen(this.canvas).getImageData(0, 0, width, height);
    let isEmpty = true;
    for (let at = 0; at < painted.data.length; at += 4) {
      const cover = painted.data[at + 3];
      if (cover) isEmpty = false;
      painted.data.fill(cover, at, at + 3);
      painted.data[at + 3] = 255;
    }
    if (isEmpty) return null;
    const ground = sheet(this.size);
    pen(ground).putImageData(painted, 0, 0);
    return new Promise((resolve) => ground.toBlob(resolve, "image/png"));
  }
}

// Colours over a picture. What is not painted stays transparent, also in what is stored.
export class SketchPainter extends MaskPainter {
  constructor(chosenColour) {
    super();
    this.colour = chosenColour;
  }

  readGround() {
    // It is stored as it was painted.
  }

  // The paint as a PNG; null when there is none.
  async toBlob() {
    if (!this.canvas) return null;
    const { data } = pen(this.canvas).getImageData(0, 0, ...this.size);
    for (let at = 3; at < data.length; at += 4) {
      if (data[at]) return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    }
    return null;
  }
}

// Masks are read back, so they are better kept out of the graphics card.
function pen(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

function sheet([width, height]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}
