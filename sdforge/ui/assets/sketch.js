// A canvas to sketch on: a round brush in any colour over white, or over a picture that was put there.

import { button, make } from "./dom.js";
import { droppedPictures } from "./dropped.js";
import { notify } from "./notify.js";

const PAPER = "#ffffff";
const MOST_STROKES = 200;

export class Sketch {
  // `onChange` is called while a stroke is drawn, at most once a frame of the screen.
  constructor(onChange) {
    this.onChange = onChange;
    this.size = [512, 512];
    this.strokes = [];
    this.ground = null;
    this.canvas = make("canvas", { id: "live_canvas", class: "live-canvas", tabIndex: 0, "aria-label": "Sketch: draw here, or drop a picture" });
    [this.canvas.width, this.canvas.height] = this.size;
  }

  mount(root) {
    this.colour = make("input", { id: "live_colour", type: "color", value: "#c03030", "aria-label": "Colour of the brush" });
    this.width = make("input", { id: "live_brush", type: "range", min: 1, max: 100, value: 12, "aria-label": "Width of the brush" });
    this.file = make("input", { type: "file", accept: "image/*", hidden: true, id: "live_file", "aria-label": "File of a picture" });
    this.file.addEventListener("change", () => this.file.files[0] && this.take(this.file.files[0]));
    root.replaceChildren(
      this.canvas,
      make("div", { class: "tools" }, this.colour, this.width,
        button("Undo", () => this.undo(), { id: "live_undo" }), button("Clear", () => this.clear(), { id: "live_clear" }),
        button("Choose a picture", () => this.file.click()), this.file)
    );
    if (this.isMounted) return;
    this.isMounted = true;
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.release());
    canvas.addEventListener("dragover", (event) => event.preventDefault());
    canvas.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      droppedPictures(event.dataTransfer).then(([picture]) => picture && this.take(picture)).catch((error) => notify(error.message, "error"));
    });
    this.draw();
  }

  setSize(width, height) {
    if (this.size[0] === width && this.size[1] === height) return;
    const [x, y] = [width / this.size[0], height / this.size[1]];
    for (const stroke of this.strokes) {
      stroke.width *= Math.min(x, y);
      stroke.points = stroke.points.map(([left, top]) => [left * x, top * y]);
    }
    this.size = [width, height];
    [this.canvas.width, this.canvas.height] = this.size;
    this.draw();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * this.size[0]) / box.width, ((event.clientY - box.top) * this.size[1]) / box.height];
  }

  press(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    // The slider counts in 512ths of the picture, so that a brush looks alike at every size.
    this.stroke = { colour: this.colour.value, width: (Number(this.width.value) * this.size[0]) / 512, points: [this.point(event)] };
    this.strokes.push(this.stroke);
    if (this.strokes.length > MOST_STROKES) this.flatten();
    this.paint(this.stroke, 0);
    this.soon();
  }

  move(event) {
    if (!this.stroke) return;
    const from = this.stroke.points.length - 1;
    const events = event.getCoalescedEvents?.() || [];
    for (const one of events.length ? events : [event]) this.stroke.points.push(this.point(one));
    this.paint(this.stroke, from);
    this.soon();
  }

  release() {
    this.stroke = null;
    this.soon();
  }

  soon() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.onChange();
    });
  }

  undo() {
    this.strokes.pop();
    this.draw();
    this.soon();
  }

  clear() {
    this.strokes = [];
    this.ground = null;
    this.draw();
    this.soon();
  }

  async take(file) {
    this.ground = await createImageBitmap(file);
    this.strokes = [];
    this.file.value = "";
    this.draw();
    this.soon();
  }

  // Makes the strokes so far the ground: a long evening does not make drawing slow.
  flatten() {
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = this.size;
    sheet.getContext("2d").drawImage(this.canvas, 0, 0);
    this.ground = sheet;
    this.strokes = [this.stroke];
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.fillStyle = PAPER;
    pen.fillRect(0, 0, ...this.size);
    if (this.ground) pen.drawImage(this.ground, 0, 0, ...this.size);
    for (const stroke of this.strokes) this.paint(stroke, 0);
  }

  paint({ colour, width, points }, from) {
    const pen = this.canvas.getContext("2d");
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...points[from]);
    // A line of no length is a dot.
    for (const point of points.slice(from)) pen.lineTo(...point);
    pen.stroke();
  }

  toBlob() {
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }
}
