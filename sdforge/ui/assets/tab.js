// One tab: its form, its jobs and results, its pictures; and what its buttons do.

import { ControlPanel } from "./controlnet.js";
import { FitChip } from "./fit.js";
import { Forever } from "./forever.js";
import { Form } from "./form.js";
import { upload } from "./http.js";
import { JobFollower } from "./jobs.js";
import { openLightbox, pin } from "./lightbox.js";
import { translateValuesSoon } from "./locale.js";
import { notify } from "./notify.js";
import { PictureBox } from "./pictures.js";
import { ReferenceBox } from "./references.js";
import { Results } from "./results.js";
import { ScriptBox } from "./script.js";
import { applyStyles, editStyles } from "./styles.js";
import { SweepView } from "./sweep.js";
import { openTab } from "./tabs.js";

export class Tab {
  // `others` are all tabs by name: pictures are sent from one to another.
  constructor(name, others) {
    this.name = name;
    this.others = others;
    this.form = new Form(name);
    this.results = new Results(name);
    this.pictures = name === "img2img" ? new PictureBox(this) : null;
    this.jobs = new JobFollower(this);
    this.control = new ControlPanel(this);
    this.references = new ReferenceBox(this);
    this.script = new ScriptBox(this);
    this.sweep = new SweepView(this);
    this.fit = new FitChip(this);
    this.forever = new Forever(this);
    this.form.onChange = (values) => this.show(values);
    this.form.beside = { read: () => ({ controlnet: this.control.units }), restore: ({ controlnet }) => this.control.restore(controlnet) };
    this.clicks = this.makeClicks();
  }

  isShown() {
    return Boolean(document.getElementById(`${this.name}_generate_box`)?.offsetParent);
  }

  // Remembers which prompt was used last, for what models.js puts in.
  focused(target) {
    for (const name of ["prompt", "negative_prompt"]) if (this.form.element(name)?.contains(target)) this.lastPrompt = name;
  }

  open() {
    openTab(this.name);
  }

  // Called by Gradio's events, see _connect_tab in app.py.
  remember(values) {
    this.form.remember(values);
  }

  takePending(values) {
    return this.form.takePending(values);
  }

  beforePaste(values) {
    return this.form.beforePaste(values, this.results.infotext());
  }

  beforeSubmit() {
    return this.jobs.beforeSubmit();
  }

  // The pictures of an estimate: those that are stored already; a mask has its picture's size.
  beforeDryRun() {
    return { ...this.beforeEstimate(), script: this.script.text() };
  }

  beforeEstimate() {
    return { pictures: JSON.stringify(this.picturesNow()) };
  }

  picturesNow() {
    // One of many is estimated as the others are.
    const control = this.control.enabledNow().map(({ batch: _, batch_dir: __, ...unit }) => unit);
    return { ...this.pictures?.refsNow(), control, references: this.references.refs };
  }

  // What the server said to one of them: see TabActions in tab_actions.py.
  answered(message) {
    if (message.task) this.jobs.answered(message);
    else if (message.problem) this.showProblem(message.problem);
    if (message.plan) this.script.planned(message.plan);
    if (message.fit) this.fit.take(message.fit);
    if (message.tokens) this.form.showTokens(message.tokens);
    if (message.pasted) {
      this.control.fill(message.control);
      this.form.pasted();
    }
    if (message.note) notify(message.note);
  }

  pinPicture() {
    const picture = this.results.picture();
    if (!picture) return;
    pin(picture);
    notify("Pinned: ◧ in the large view compares others with it.");
  }

  showProblem(problem) {
    this.forever.refused();
    notify(problem.message, "error");
    if (problem.field) this.form.markBad(problem.field);
  }

  redraw() {
    this.results.redraw();
    this.script.redraw();
    this.sweep.redraw();
    this.form.redraw();
    this.fit.draw();
    this.control.redraw();
    this.references.redraw();
    this.pictures?.redraw();
  }

  // Draws what follows from the form's values.
  show(values) {
    showHires(values);
    translateValuesSoon();
    this.fit.changed(values);
    this.pictures?.setMode(values.mode, Boolean(values["soft_inpainting.enabled"]));
    document.getElementById("img2img_settings")?.setAttribute("data-mode", values.mode || "img2img");
  }

  // The stored pictures that a job needs, and its ControlNet units.
  async picturesFor(extra) {
    return { ...(await this.pictures?.stored()), control: await this.control.enabled(), references: await this.references.stored(), ...extra };
  }

  click(id) {
    const action = this.clicks[id.replace(`${this.name}_`, "")];
    if (!action) return false;
    action();
    return true;
  }

  makeClicks() {
    const { form, results, jobs, pictures } = this;
    const own = {
      generate: () => jobs.submit(),
      fit_fix: () => this.fit.fix(),
      interrupt: () => jobs.cancel(),
      skip: () => jobs.skip(),
      style_apply: () => applyStyles(this),
      styles_edit_button: () => editStyles(this),
      undo: () => form.undoLast(),
      rest: () => jobs.drawRest(results.ended),
      paste: () => form.ask("paste"),
      clear_prompt: () => form.clearPrompts(),
      refresh_lists: () => form.ask("refresh_lists"),
      res_switch_btn: () => form.swapSize(),
      random_seed: () => form.set({ seed: -1 }),
      random_subseed: () => form.set({ subseed: -1 }),
      reuse_seed: () => this.sendSeed("seed", results.seed()),
      send_seed: () => this.sendSeed("seed", results.seed()),
      reuse_subseed: () => this.sendSeed("subseed", results.subseed()),
      enlarge: () => openLightbox(results),
      [`save_zip_${this.name}`]: () => results.saveZip(),
      pin: () => this.pinPicture(),
      copy_info: () => results.copyInfotext(),
      send_to_img2img: () => this.others.img2img.receive(results.picture(), "img2img"),
      send_to_inpaint: () => this.others.img2img.receive(results.picture(), "inpaint"),
      send_to_extras: () => this.others.extras.receive(results.picture()),
      upscale: () => this.enlarge(),
    };
    return pictures ? { ...own, ...pictures.clicks() } : own;
  }

  // The lists of both forms: styles are the server's.
  stylesChanged() {
    for (const { form } of Object.values(this.others)) if (form instanceof Form) form.ask("refresh_styles");
  }

  sendSeed(name, seed) {
    if (seed === undefined) notify("There is no picture yet whose seed could be taken.");
    else this.form.set({ [name]: seed });
  }

  // Takes a result of any tab as the picture to start from, with its parameters and its size.
  async receive(picture, mode) {
    if (!picture) return;
    this.open();
    try {
      await this.pictures.take("init", await (await fetch(picture.url)).blob());
    } catch (error) {
      notify(error.message, "error");
      return;
    }
    const afterwards = { mode, sizing: "to", width: picture.width, height: picture.height };
    if (picture.infotext) this.form.readInfotext(picture.infotext, afterwards);
    else this.form.set(afterwards);
  }

  // Draws a picture larger with what the form says of hires fix: the shown one with the form's other values as well,
  // one from elsewhere with its own.
  async enlarge(given = null) {
    const picture = given || this.results.picture();
    if (!picture) return;
    try {
      const first = await upload("api/v1/inputs", await (await fetch(picture.url)).blob());
      await this.jobs.submit(given ? { first, infotext: given.infotext } : { first, seed: picture.seed });
    } catch (error) {
      notify(error.message, "error");
    }
  }
}

function showHires(values) {
  const note = document.getElementById("txt2img_hr_finalres");
  if (!note || values.hires === undefined) return;
  const [width, height] = [Number(values.width), Number(values.height)];
  const [toWidth, toHeight] = hiresSize(values, width, height);
  note.textContent = values.hires ? `from ${width}×${height} to ${toWidth}×${toHeight}` : "";
}

// The rule is core/request.py's; two given sides are what is left after cropping.
function hiresSize(values, width, height) {
  const [wide, high] = [Number(values.hires_width), Number(values.hires_height)];
  const floor = (length) => Math.floor(length / 8) * 8;
  if (!wide && !high) {
    const scale = Number(values.hires_scale);
    return [floor(width * scale), floor(height * scale)];
  }
  if (!high) return [floor(wide), floor((wide * height) / width)];
  if (!wide) return [floor((high * width) / height), floor(high)];
  return [floor(wide), floor(high)];
}
