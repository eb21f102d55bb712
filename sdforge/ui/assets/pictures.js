// What img2img starts from: the picture, and a mask that is painted over it or sent as a file.
//
// A picture goes to the engine's store as soon as it is chosen, a painted mask when a job is sent;
// the page keeps their names, so a reload finds them again.

import { BatchBox } from "./batch.js";
import { address, upload } from "./http.js";
import { MaskPainter, SketchPainter } from "./mask.js";
import { notify } from "./notify.js";
import { PictureView } from "./zoom.js";

// A1111 has a box for each kind; here the one box bears the id of the kind that is chosen.
const BOX_IDS = { img2img: "img2img_img2img", sketch: "img2img_sketch", inpaint: "img2maskimg", inpaint_sketch: "inpaint_sketch", upload: "img_inpaint_base" };
const SKETCHES = ["sketch", "inpaint_sketch"];
const BRUSH_STEP = 1.2;
const WHAT = { init: "the picture", mask: "the mask" };

export class PictureBox {
  constructor(tab) {
    this.tab = tab;
    this.storageKey = `sdforge.${tab.name}.pictures`;
    this.mode = "img2img";
    // By "init", "mask", "painted" and "sketch": what the store calls them.
    this.refs = {};
    this.sources = {};
    this.sending = {};
    this.chosen = "init";
    this.batch = new BatchBox(tab);
    this.masks = new MaskPainter();
    this.sketches = new SketchPainter(() => this.colourBox().value);
    this.isPicking = false;
    this.view = new PictureView({
      painter: () => (this.isPainting() ? this.painter : null),
      resizeBrush: (factor, event) => this.resizeBrush(factor, event),
      onFull: (isFull) => this.showFull(isFull),
    });
  }

  // What paints in the kind that is chosen.
  get painter() {
    return SKETCHES.includes(this.mode) ? this.sketches : this.masks;
  }

  colourBox() {
    return document.getElementById(`${this.tab.name}_brush_color`);
  }

  // What the sliders say; a mask is either or, unless soft inpainting reads how much of it there is.
  brush() {
    const value = (name) => Number(document.getElementById(`${this.tab.name}_${name}`).value);
    const isSoft = SKETCHES.includes(this.mode) || this.box().hasAttribute("data-soft");
    return { size: value("brush"), softness: isSoft ? value("brush_softness") / 100 : 0, opacity: isSoft ? value("brush_opacity") / 100 : 1 };
  }

  // `event` is where the pointer is, when it is known.
  resizeBrush(factor, event = null) {
    const slider = document.getElementById(`${this.tab.name}_brush`);
    const size = Number(slider.value);
    slider.value = String(Math.round(factor > 1 ? Math.max(size + 1, size * factor) : Math.min(size - 1, size * factor)));
    if (event) this.painter.showCursor(event);
  }

  showFull(isFull) {
    this.box().classList.toggle("full-screen", isFull);
    document.getElementById(`${this.tab.name}_full_screen`).setAttribute("aria-pressed", String(isFull));
    this.area("init").focus({ preventScroll: true });
  }

  setPicking(isPicking) {
    this.isPicking = isPicking;
    document.getElementById(`${this.tab.name}_pick_color`)?.setAttribute("aria-pressed", String(isPicking));
  }

  // Takes the colour below a click, of the picture with what is painted.
  pick(event) {
    const image = this.area("init").querySelector(".frame img");
    const [x, y] = this.sketches.point(event);
    const dot = document.createElement("canvas");
    dot.width = dot.height = 1;
    const context = dot.getContext("2d");
    const { width, height } = this.refs.init;
    context.drawImage(image, -Math.floor(x), -Math.floor(y), width, height);
    context.drawImage(this.sketches.canvas, -Math.floor(x), -Math.floor(y));
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    this.colourBox().value = `#${[red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("")}`;
    this.setPicking(false);
  }

  clicks() {
    return {
      choose_init: () => this.choose("init"),
      replace_init: () => this.choose("init"),
      choose_mask: () => this.choose("mask"),
      remove_init: () => this.remove(),
      mask_undo: () => this.painter.undo(),
      mask_redo: () => this.painter.redo(),
      mask_clear: () => this.painter.clear(),
      full_screen: () => this.view.setFull(!this.view.isFull),
      reset_view: () => this.view.reset(),
      pick_color: () => this.setPicking(!this.isPicking),
      choose_batch: () => this.batch.choose(),
      detect_image_size_btn: () => this.useSize(),
    };
  }

  box() {
    return document.getElementById(`${this.tab.name}_pictures`);
  }

  area(what) {
    return this.box()?.querySelector(`[data-takes="${what}"]`);
  }

  // `isSoft`: soft inpainting is on.
  setMode(mode, isSoft = false) {
    const changes = this.mode !== (mode || "img2img");
    this.mode = mode || "img2img";
    this.box()?.setAttribute("data-mode", this.mode);
    this.box()?.toggleAttribute("data-soft", isSoft);
    if (this.mode === "batch") this.view.setFull(false);
    const frame = this.area("init")?.querySelector(".frame");
    if (frame) frame.id = BOX_IDS[this.mode] || "";
    if (changes && this.isPainting()) this.painter.draw();
  }

  isPainting() {
    return (this.mode === "inpaint" || SKETCHES.includes(this.mode)) && Boolean(this.refs.init);
  }

  choose(what) {
    this.chosen = what;
    document.getElementById(`${this.tab.name}_file`).click();
  }

  takeFile(target, file) {
    const what = target.closest?.("[data-takes]")?.dataset.takes || "init";
    this.take(what, file).catch((error) => notify(error.message, "error"));
  }

  // Shows a picture at once and sends it to the store.
  async take(what, blob) {
    const source = URL.createObjectURL(blob);
    const before = this.refs[what];
    const sent = upload("api/v1/inputs", blob);
    this.sending[what] = sent;
    try {
      const ref = await sent;
      if (this.sending[what] !== sent) return;
      this.put(what, ref, source);
      if (what === "init" && before?.sha256 !== ref.sha256) this.forgetMask();
      this.store();
      this.tab.fit.again();
    } finally {
      if (this.sending[what] === sent) delete this.sending[what];
    }
  }

  put(what, ref, source) {
    this.refs[what] = ref;
    this.sources[what] = source;
    this.draw(what);
    if (what !== "init") return;
    this.view.reset();
    this.beginPainting();
  }

  beginPainting() {
    for (const painter of [this.masks, this.sketches]) painter.begin(this.refs.init.width, this.refs.init.height);
  }

  forgetMask() {
    delete this.refs.painted;
    delete this.refs.sketch;
    this.beginPainting();
  }

  remove() {
    this.refs = this.mode === "upload" && this.refs.mask ? { mask: this.refs.mask } : {};
    delete this.sources.init;
    this.view.setFull(false);
    this.draw("init");
    this.store();
  }

  // The names of what a job needs; waits for what is under way.
  async stored() {
    if (this.mode === "batch") return { batch: await this.batch.stored() };
    await Promise.all(Object.values(this.sending));
    const { init } = this.refs;
    if (!init) return {};
    if (this.mode === "upload") return { init, mask: this.refs.mask };
    if (!this.isPainting()) return { init };
    const isSketch = SKETCHES.includes(this.mode);
    const painted = await this.painter.toBlob();
    if (!painted) return { init };
    const ref = await upload("api/v1/inputs", painted);
    this.refs[isSketch ? "sketch" : "painted"] = ref;
    this.store();
    return isSketch ? { init, paint: ref } : { init, mask: ref };
  }

  // The names of what is stored at this moment, for an estimate.
  refsNow() {
    const { init, mask, painted } = this.refs;
    if (!init || this.mode === "img2img" || this.mode === "sketch") return init ? { init } : {};
    return { init, mask: (this.mode === "upload" ? mask : painted) || init };
  }

  store() {
    try {
      localStorage.setItem(this.storageKey, JSON.stringify(this.refs));
    } catch {
      // Without storage a reload forgets the picture.
    }
  }

  // What the browser remembers, as far as the store still has it.
  async restore() {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(this.storageKey) || "{}") || {};
    } catch {
      return;
    }
    for (const what of ["init", "mask", "painted", "sketch"]) {
      if (!kept[what]?.sha256 || this.refs[what]) continue;
      const source = address(`api/v1/inputs/${kept[what].sha256}`);
      if (!(await canLoad(source))) continue;
      if (this.sending[what] || this.refs[what]) continue;
      if (what === "init" || what === "mask") this.put(what, kept[what], source);
      else if (this.refs.init?.sha256 === kept.init?.sha256) {
        this.refs[what] = kept[what];
        await (what === "sketch" ? this.sketches : this.masks).load(source);
      }
    }
  }

  // Gradio made the elements anew.
  redraw() {
    const box = this.box();
    if (!box) return;
    this.setMode(this.mode, Boolean(this.tab.form.values()["soft_inpainting.enabled"]));
    this.view.attach(this.area("init"), this.area("init").querySelector(".frame"), document.getElementById(`${this.tab.name}_reset_view`));
    box.classList.toggle("full-screen", this.view.isFull);
    const canvas = box.querySelector("canvas");
    for (const painter of [this.masks, this.sketches]) {
      painter.attach(canvas, box.querySelector(".brush"), () => this.brush(), () => this.isPainting() && this.painter === painter && !this.isPicking);
    }
    canvas.onclick = (event) => this.isPicking && SKETCHES.includes(this.mode) && this.pick(event);
    this.batch.redraw();
    const file = document.getElementById(`${this.tab.name}_file`);
    file.onchange = () => {
      if (file.files[0]) this.takeFile(this.area(this.chosen), file.files[0]);
      file.value = "";
    };
    this.draw("init");
    this.draw("mask");
    if (!this.restored) this.restored = this.restore();
  }

  draw(what) {
    const area = this.area(what);
    if (!area) return;
    const ref = this.sources[what] && this.refs[what];
    const frame = area.querySelector(".frame");
    frame.hidden = !ref;
    area.querySelector(".hint").hidden = Boolean(ref);
    if (what === "init") {
      this.box().classList.toggle("filled", Boolean(ref));
      this.box().querySelector(".size").textContent = ref ? `${ref.width}×${ref.height}` : "";
    }
    if (!ref) return;
    frame.style.aspectRatio = `${ref.width} / ${ref.height}`;
    frame.style.width = `min(100%, calc(var(--frame-height) * ${ref.width / ref.height}))`;
    frame.querySelector("img").src = this.sources[what];
    frame.querySelector("img").alt = `${WHAT[what]}, ${ref.width} by ${ref.height} pixels`;
  }

  useSize() {
    const { init } = this.refs;
    if (!init) {
      notify("There is no picture yet whose size could be taken.");
      return;
    }
    const floor = (length) => Math.max(64, Math.floor(length / 8) * 8);
    this.tab.form.set({ width: floor(init.width), height: floor(init.height), sizing: "to" });
  }

  // Whether a key was meant for the picture.
  key(event) {
    if (!this.refs.init || event.target.closest?.("input:not([type=range]), textarea, select, [contenteditable]")) return false;
    const key = event.key.toLowerCase();
    const withControl = event.ctrlKey || event.metaKey;
    const run = withControl ? this.paintKeys(event)[`ctrl+${key}`] : this.paintKeys(event)[key] || this.viewKeys(event)[key];
    run?.();
    return Boolean(run);
  }

  paintKeys({ shiftKey }) {
    if (!this.isPainting()) return {};
    const { painter } = this;
    return {
      "[": () => this.resizeBrush(1 / BRUSH_STEP),
      "]": () => this.resizeBrush(BRUSH_STEP),
      "ctrl+z": () => (shiftKey ? painter.redo() : painter.undo()),
      "ctrl+y": () => painter.redo(),
    };
  }

  viewKeys({ target, altKey }) {
    if (altKey || !this.view.hasKeys()) return {};
    const hold = () => this.view.hold(true);
    const keys = { s: () => this.view.setFull(!this.view.isFull), r: () => this.view.reset(), f: hold };
    // The space bar presses what has the focus.
    return target.closest?.("button, input, summary, a, [role]") ? keys : { ...keys, " ": hold };
  }

  // Whether Escape was for the picture over the whole window.
  leaveFull() {
    const wasFull = this.view.isFull;
    this.view.setFull(false);
    return wasFull;
  }
}

async function canLoad(source) {
  const picture = new Image();
  picture.src = source;
  try {
    await picture.decode();
    return true;
  } catch {
    return false;
  }
}
