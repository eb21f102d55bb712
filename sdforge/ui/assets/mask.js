// A mask painted over a picture: strokes of a round brush; with Shift or the right button they erase.
//
// The canvas has the picture's own pixels, whatever size it is shown at. Strokes are kept as lists of
// points, so taking one back draws the others anew. A sketch is painted in the same way, in colours.

import { isPlain, lay, newStroke, paintPlain } from "./brush.js";

const COLOUR = "#f4f4f4";
// A pen that hardly touches still leaves a line.
const LEAST_PRESSURE = 0.1;
const CLEARED = { clears: true };

export class MaskPainter {
  constructor() {
    this.strokes = [];
    this.undone = [];
    this.base = null;
    this.size = [1, 1];
    this.canvas = null;
  }

  // Begins an empty mask for a picture of this size.
  begin(width, height) {
    this.size = [width, height];
    this.strokes = [];
    this.undone = [];
    this.base = null;
    this.draw();
  }

  // `mayPaint` says whether a press of the pointer is a stroke, `brush` how it is: width on screen, softness, opacity.
  attach(canvas, cursor, brush, mayPaint) {
    if (this.canvas === canvas) return;
    Object.assign(this, { canvas, cursor, brush, mayPaint });
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
    const pressed = event.pointerType === "pen" && event.pressure ? Math.max(LEAST_PRESSURE, event.pressure) : 1;
    return [(event.clientX - box.left) * this.scale(), (event.clientY - box.top) * this.scale(), pressed];
  }

  press(event) {
    if (!this.mayPaint()) return;
    event.preventDefault();
    this.canvas.closest("[tabindex]")?.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const { size, softness, opacity } = this.brush();
    const erases = event.shiftKey || event.button === 2;
    this.stroke = newStroke({ width: size * this.scale(), colour: this.colour(), erases, softness, opacity }, this.point(event));
    this.ground = isPlain(this.stroke) ? null : copied(this.canvas);
    this.strokes.push(this.stroke);
    this.undone = [];
    this.paint(this.stroke, 0, this.ground);
  }

  move(event) {
    if (!this.mayPaint()) return;
    this.showCursor(event);
    if (!this.stroke) return;
    const from = this.stroke.points.length - 1;
    const events = event.getCoalescedEvents?.() || [];
    for (const one of events.length ? events : [event]) this.stroke.points.push(this.point(one));
    this.paint(this.stroke, from, this.ground);
  }

  // Takes back the stroke that is being painted: it was the first of two fingers.
  drop() {
    if (!this.stroke) return;
    this.stroke = null;
    this.strokes.pop();
    this.draw();
  }

  showCursor(event) {
    this.cursor.hidden = event.pointerType === "touch";
    const area = this.cursor.parentElement.getBoundingClientRect();
    const { size } = this.brush();
    this.cursor.style.width = this.cursor.style.height = `${size}px`;
    this.cursor.style.left = `${event.clientX - area.left - size / 2}px`;
    this.cursor.style.top = `${event.clientY - area.top - size / 2}px`;
  }

  undo() {
    if (!this.strokes.length) return;
    this.undone.push(this.strokes.pop());
    this.draw();
  }

  redo() {
    if (!this.undone.length) return;
    this.strokes.push(this.undone.pop());
    this.draw();
  }

  // What was painted can be had again: it is a step like a stroke.
  clear() {
    this.strokes.push(CLEARED);
    this.undone = [];
    this.draw();
  }

  // Two painters may share a canvas; the one that may paint is seen.
  draw() {
    if (!this.canvas || !this.mayPaint()) return;
    [this.canvas.width, this.canvas.height] = this.size;
    const first = this.strokes.lastIndexOf(CLEARED);
    if (this.base && first < 0) pen(this.canvas).drawImage(this.base, 0, 0);
    for (const stroke of this.strokes.slice(first + 1)) this.paint(stroke, 0);
  }

  // Paints a stroke from one of its points on; `ground` is what was there before it, where it is not plain.
  paint(stroke, from, ground = null) {
    if (isPlain(stroke)) paintPlain(pen(this.canvas), stroke, from);
    else lay(pen(this.canvas), stroke, this.aside(), ground, from);
  }

  // A sheet of the picture's size that strokes are made on before they are laid over the others.
  aside() {
    const [width, height] = this.size;
    if (this.sheet?.width !== width || this.sheet?.height !== height) this.sheet = sheet(this.size);
    return pen(this.sheet);
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

function copied(canvas) {
  const copy = sheet([canvas.width, canvas.height]);
  pen(copy).drawImage(canvas, 0, 0);
  return copy;
}

function sheet([width, height]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}
