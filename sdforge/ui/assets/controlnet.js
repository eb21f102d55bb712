// The ControlNet accordion: units with A1111's and Forge's controls. Their values are kept in this
// browser; a job gets the units that are enabled, with the names of their stored pictures.

import { ControlPreviews, workingResolution } from "./control_preview.js";
import { button, make } from "./dom.js";
import { droppedPictures, holdsPicture } from "./dropped.js";
import { address, Refused, request, upload } from "./http.js";
import { notify } from "./notify.js";

const UNITS = 3;
const CONTROL_MODES = ["Balanced", "My prompt is more important", "ControlNet is more important"];
const RESIZE_MODES = ["Just Resize", "Crop and Resize", "Resize and Fill"];
const HIRES_OPTIONS = ["Both", "Low res only", "High res only"];
const FRESH = {
  enabled: false,
  type: "All",
  module: "none",
  model: "None",
  weight: 1,
  guidance_start: 0,
  guidance_end: 1,
  processor_res: -1,
  threshold_a: -1,
  threshold_b: -1,
  pixel_perfect: false,
  control_mode: CONTROL_MODES[0],
  resize_mode: RESIZE_MODES[1],
  hires_option: HIRES_OPTIONS[0],
  image: null,
  mask: null,
  // Pictures that it looks at in turn, with the names of their files, or a folder of them on the server: a job for each.
  batch: null,
  batch_dir: "",
};
const NAMES_SHOWN = 3;

export class ControlPanel {
  constructor(tab) {
    this.tab = tab;
    this.key = `sdforge.${tab.name}.controlnet`;
    this.units = this.restored();
    this.shown = 0;
    this.types = null;
    this.refused = [];
    this.sending = new Set();
    this.previews = new ControlPreviews({
      shows: (number) => number === this.shown && this.draw(),
      takes: (image) => this.set({ image, batch: null, module: "none", processor_res: -1, threshold_a: -1, threshold_b: -1 }, { redraws: true }),
      drawn: () => this.tab.form.values(),
      own: () => this.tab.picturesNow().init,
    });
  }

  // What a job gets.
  async enabled() {
    await Promise.all(this.sending);
    return this.enabledNow();
  }

  enabledNow() {
    const units = this.units.map((unit, number) => ({ ...unit, unit: number })).filter((unit) => unit.enabled);
    // A union ControlNet asks what it is shown; the others do not mind.
    return units.map(({ enabled: _, type, ...unit }) => ({ ...unit, union_control_type: type === "All" ? unit.union_control_type || "Unknown" : type }));
  }

  // Gradio made the element anew.
  redraw() {
    this.root = document.getElementById(`${this.tab.name}_controlnet`);
    if (!this.root || this.root.dataset.drawn) return;
    this.root.dataset.drawn = "yes";
    this.root.addEventListener("toggle", () => this.root.open && !this.types && this.load());
    this.drawTitle();
    if (this.units.some((unit) => unit.enabled)) this.root.open = true;
  }

  async load(update = false) {
    try {
      const models = await request(`controlnet/model_list?update=${update}`);
      const [types, modules] = await Promise.all([request("controlnet/control_types"), request("controlnet/module_list")]);
      this.refused = Object.entries(models.refused || {});
      this.types = types.control_types;
      this.details = modules.module_detail;
      this.draw();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  drawTitle() {
    const count = this.units.filter((unit) => unit.enabled).length;
    const title = this.root?.querySelector("summary");
    if (title) title.textContent = controlTitle(count);
  }

  draw() {
    const body = this.root?.querySelector(".controlnet-body");
    if (!body || !this.types) return;
    const tabs = this.units.map((unit, number) =>
      button(`Unit ${number}${unit.enabled ? " ●" : ""}`, () => this.show(number), {
        class: "button small",
        id: `${this.tab.name}_controlnet_unit_${number}`,
        "aria-pressed": String(number === this.shown),
      })
    );
    body.replaceChildren(make("div", { class: "segments-bar", role: "group", "aria-label": "ControlNet units" }, tabs), this.unit(this.units[this.shown]));
  }

  show(number) {
    this.shown = number;
    this.draw();
  }

  set(changes, { redraws = false } = {}) {
    Object.assign(this.units[this.shown], changes);
    this.store();
    this.drawTitle();
    this.tab.fit.again();
    this.previews.changed(this.shown, this.units[this.shown], changes);
    if (redraws) this.draw();
  }

  unit(unit) {
    const known = this.types[unit.type] || this.types.All;
    const prefix = `${this.tab.name}_controlnet_ControlNet-${this.shown}`;
    const select = (name, label, options) => this.select(prefix, name, label, options, unit[name]);
    const number = (name, label, range) => this.slider(prefix, name, label, range, unit[name]);
    const tick = (name, label) => this.tick(prefix, name, label, unit[name]);
    const sliders = this.details[unit.module]?.sliders || [];
    const own = ["processor_res", "threshold_a", "threshold_b"].slice(unit.pixel_perfect ? 1 : 0);
    const values = sliders.slice(unit.pixel_perfect ? 1 : 0);
    return make(
      "div",
      { class: "control-unit" },
      make("div", { class: "control-pictures" }, this.picture("image", "Picture", unit), this.picture("mask", "Mask (optional)", unit), this.previews.figure(this.shown)),
      make("div", { class: "tools" }, tick("enabled", "Enable"), tick("pixel_perfect", "Pixel Perfect")),
      select("type", "Control Type", Object.keys(this.types)),
      make(
        "div",
        { class: "control-row" },
        select("module", "Preprocessor", known.module_list),
        button("Run", () => this.previews.make(this.shown, unit), { class: "button small", id: `${prefix}_run`, title: "Show what the preprocessor makes of the picture" }),
        select("model", "Model", known.model_list),
        button("↻", () => this.load(true), { class: "button small", "aria-label": "Look for models again", title: "Look for models again" })
      ),
      this.unusable(),
      number("weight", "Control Weight", { min: 0, max: 2, step: 0.05 }),
      make("div", { class: "control-row" }, number("guidance_start", "Starting Control Step", { min: 0, max: 1, step: 0.01 }), number("guidance_end", "Ending Control Step", { min: 0, max: 1, step: 0.01 })),
      values.map((slider, index) => number(own[index], slider.name, slider)),
      make(
        "div",
        { class: "control-row" },
        select("control_mode", "Control Mode", CONTROL_MODES),
        select("resize_mode", "Resize Mode", RESIZE_MODES),
        this.tab.name === "txt2img" ? select("hires_option", "Hires-Fix Option", HIRES_OPTIONS) : null
      ),
      this.folder(prefix, unit)
    );
  }

  // Files that lie there and are not offered, each with the reason.
  unusable() {
    const count = this.refused.length;
    if (!count) return null;
    const title = count === 1 ? "1 file cannot be used" : `${count} files cannot be used`;
    const rows = this.refused.map(([name, reason]) => make("li", {}, reason.includes(name.split("/").pop()) ? null : make("b", {}, `${name} `), make("span", {}, reason)));
    return make("details", { class: "note control-refused" }, make("summary", {}, title), make("ul", {}, rows));
  }

  select(prefix, name, label, options, value) {
    const known = options.includes(value) ? options : [...options, value];
    const id = `${prefix}_${name}`;
    const element = make("select", { id }, known.map((one) => make("option", { value: one, selected: one === value }, one)));
    element.addEventListener("change", () => this.chosen(name, element.value));
    return make("div", { class: "field" }, make("label", { for: id }, label), element);
  }

  chosen(name, value) {
    const changes = { [name]: value };
    if (name === "type") {
      const { default_option: module, default_model: model } = this.types[value];
      Object.assign(changes, { module, model: model === "None" && value === "All" ? this.units[this.shown].model : model });
    }
    if (name === "type" || name === "module") Object.assign(changes, { processor_res: -1, threshold_a: -1, threshold_b: -1 });
    this.set(changes, { redraws: name === "type" || name === "module" });
  }

  // −1 stands for the slider's own value, which is then shown.
  slider(prefix, name, label, { min, max, step, value: usual }, value) {
    const id = `${prefix}_${name}`;
    const own = name === "processor_res" ? this.automatic(usual) : usual;
    const shown = value < min && own !== undefined ? own : value;
    const range = make("input", { type: "range", min, max, step, value: shown, "aria-label": label, tabIndex: -1 });
    const box = make("input", { type: "number", id, min, max, step, value: shown });
    range.addEventListener("input", () => this.set({ [name]: Number((box.value = range.value)) }));
    box.addEventListener("input", () => {
      if (box.value !== "" && box.checkValidity()) this.set({ [name]: Number((range.value = box.value)) });
    });
    return make("div", { class: "field control-slider" }, make("label", { for: id }, label), box, range);
  }

  // Where nothing is asked the preprocessor works no finer than the picture is drawn.
  automatic(usual) {
    const unit = this.units[this.shown];
    const source = unit.image || unit.batch?.[0] || this.tab.picturesNow().init;
    return source?.width ? workingResolution({ ...unit, processor_res: -1 }, source, this.tab.form.values()) : usual;
  }

  tick(prefix, name, label, value) {
    const box = make("input", { type: "checkbox", id: `${prefix}_${name}`, checked: value });
    box.addEventListener("change", () => this.set({ [name]: box.checked }, { redraws: true }));
    return make("label", { class: "control-tick" }, box, label);
  }

  picture(what, label, unit) {
    const takes = (files) => this.takeAll(what, [...files].filter((one) => one.type.startsWith("image/")));
    const file = make("input", { type: "file", accept: "image/*", multiple: what === "image", hidden: true, id: `${this.tab.name}_controlnet_${what}_file`, "aria-label": `${label}: file` });
    file.addEventListener("change", () => takes(file.files));
    const isChosen = unit[what] || (what === "image" && unit.batch);
    const remove = { [what]: null, ...(what === "image" ? { batch: null } : {}) };
    const area = make(
      "div",
      { class: "drop-area control-picture", data: { control: what }, "aria-label": label, tabIndex: 0 },
      this.face(what, label, unit),
      make("div", { class: "tools" }, button(isChosen ? "Replace" : "Choose", () => file.click(), { class: "button small" }), isChosen ? button("Remove", () => this.set(remove, { redraws: true }), { class: "button small" }) : null),
      file
    );
    area.addEventListener("drop", (event) => {
      if (!holdsPicture(event.dataTransfer)) return;
      event.preventDefault();
      event.stopPropagation();
      droppedPictures(event.dataTransfer).then(takes).catch((error) => notify(error.message, "error"));
    });
    return area;
  }

  face(what, label, unit) {
    if (what === "image" && unit.batch) return make("span", { class: "note control-batch" }, batchText(unit.batch.map(({ name }) => name)));
    const stored = unit[what];
    if (stored) return make("img", { src: address(`api/v1/inputs/${stored.sha256}`), alt: `${label}, ${stored.width} by ${stored.height} pixels` });
    if (what === "mask") return make("span", { class: "note" }, `${label}: drop one here`);
    return make("span", { class: "note" }, this.tab.name === "img2img" ? `${label}: the tab's own, or drop one or several` : `${label}: drop one or several here`);
  }

  folder(prefix, unit) {
    const id = `${prefix}_batch_dir`;
    const box = make("input", { type: "text", id, value: unit.batch_dir, placeholder: "outputs/…" });
    box.addEventListener("input", () => this.set({ batch_dir: box.value }));
    return make("div", { class: "field" }, make("label", { for: id }, "Picture directory on the server: a job for each picture"), box);
  }

  async takeAll(what, files) {
    if (!files.length) return;
    const unit = this.units[this.shown];
    const sent = what === "image" && files.length > 1 ? this.sendBatch(files) : upload("api/v1/inputs", files[0]).then((image) => ({ [what]: image }));
    this.sending.add(sent);
    try {
      const number = this.units.indexOf(unit);
      Object.assign(unit, what === "image" ? { image: null, batch: null } : {}, await sent);
      // A picture is there to be used.
      if (what === "image") unit.enabled = true;
      if (what === "image") this.previews.drop(number);
      this.set({}, { redraws: true });
    } catch (error) {
      notify(error.message, "error");
    } finally {
      this.sending.delete(sent);
    }
  }

  // One that cannot be used is named, and the others go on.
  async sendBatch(files) {
    const batch = [];
    for (const file of files) {
      try {
        batch.push({ ...(await upload("api/v1/inputs", file)), name: file.name });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        notify(`${file.name}: ${error.message}`, "warning");
      }
    }
    if (!batch.length) throw new Error("None of these pictures can be used.");
    return { batch };
  }

  // Takes the units that a picture's text tells, each with its number. The picture was made without the others, so they
  // are off; a text holds no pictures, so all keep theirs.
  fill(told) {
    const wasOn = this.units.filter((unit) => unit.enabled).length;
    const by = new Map(told.map(({ unit: number, ...values }) => [number, values]));
    const filled = this.units.map((unit, number) => {
      const { image, mask, batch, batch_dir } = unit;
      return by.has(number) ? { ...FRESH, ...by.get(number), enabled: true, image, mask, batch, batch_dir } : { ...unit, enabled: false };
    });
    this.shown = told[0]?.unit ?? this.shown;
    this.restore(filled);
    if (!told.length && wasOn) notify("ControlNet is off: the picture was made without.");
    const without = this.tab.name === "txt2img" ? [...by.keys()].filter((number) => !hasPicture(this.units[number])) : [];
    for (const number of without) notify(`ControlNet Unit ${number} needs its picture, which no text holds.`, "warning");
  }

  // Puts all units back, as `fill` found them.
  restore(units) {
    this.units = units;
    this.previews.clear();
    this.set({}, { redraws: true });
    if (this.root && units.some((unit) => unit.enabled)) this.root.open = true;
  }

  store() {
    try {
      localStorage.setItem(this.key, JSON.stringify(this.units));
    } catch {
      // Without storage a reload forgets the units.
    }
  }

  restored() {
    let kept = [];
    try {
      kept = JSON.parse(localStorage.getItem(this.key) || "[]");
    } catch {
      // Then all units are fresh.
    }
    return Array.from({ length: UNITS }, (_, number) => {
      const unit = Array.isArray(kept) && typeof kept[number] === "object" ? kept[number] : {};
      return Object.fromEntries(Object.entries(FRESH).map(([name, value]) => [name, unit?.[name] ?? value]));
    });
  }
}

function hasPicture(unit) {
  return Boolean(unit.image || unit.batch || unit.batch_dir);
}

function batchText(names) {
  const shown = names.slice(0, NAMES_SHOWN).join(", ");
  const more = names.length - NAMES_SHOWN;
  return more > 0 ? `${names.length} pictures, a job for each: ${shown} and ${more} more` : `${names.length} pictures, a job for each: ${shown}`;
}

function controlTitle(count) {
  if (!count) return "ControlNet";
  return count === 1 ? "ControlNet · 1 unit on" : `ControlNet · ${count} units on`;
}
