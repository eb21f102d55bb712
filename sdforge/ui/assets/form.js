// Values of a tab's form: kept in this browser, put into Gradio's widgets, marked when they are bad.

import { isReachable, onReachable } from "./http.js";
import { dropMessages, notify } from "./notify.js";
import { Undo } from "./undo.js";

// Messages that offer to take back what the page changed in the form.
export const UNDO = "undo";
const SAVE_DELAY_MS = 300;
// Whatever the user does in a tab may change a value. They are read at once, then not more often than this while
// something is done, and once more when nothing has been done for a while.
const DOINGS = ["input", "change", "mousedown", "click", "keyup", "focusout", "drop"];
const READ_PERIOD_MS = 150;
const SETTLE_MS = 600;
const COUNT_DELAY_MS = 300;
const PROMPTS = ["prompt", "negative_prompt"];
// What the token counters depend on.
const COUNTED = [...PROMPTS, "steps", "styles"];
// Rows of core/fields.py whose element id differs from their name.
const ELEMENT_IDS = {
  negative_prompt: "neg_prompt",
  sampler: "sampling",
  schedule: "scheduler",
  refiner: "checkpoint",
  refiner_switch_at: "switch_at",
  hires: "hr-checkbox",
  hires_scale: "hr_scale",
  hires_upscaler: "hr_upscaler",
  hires_width: "hr_resize_x",
  hires_height: "hr_resize_y",
  hires_checkpoint: "hr_checkpoint",
  hires_modules: "hr_vae_te",
  hires_sampler: "hr_sampler",
  hires_schedule: "hr_scheduler",
  hires_negative_prompt: "hires_neg_prompt",
  hires_cfg_scale: "hr_cfg",
  mask_blur_x: "mask_blur",
  masked_content: "inpainting_fill",
  only_masked: "inpaint_full_res",
  only_masked_padding: "inpaint_full_res_padding",
  mask_invert: "mask_mode",
};

// Presses one of the page's hidden buttons.
export function press(name) {
  document.getElementById(`sdforge_${name}`)?.click();
}

export class Form {
  constructor(tab) {
    this.tab = tab;
    this.storageKey = `sdforge.${tab}.form`;
    this.undo = new Undo(`sdforge.${tab}.undo`);
    this.current = {};
    this.pending = {};
    this.justSet = {};
    this.nextRead = 0;
    this.early = {};
    this.infotext = "";
    this.afterwards = {};
    this.counted = "";
    this.page = null;
    this.onChange = () => {};
    // What a picture's text fills beside the form's widgets: `read` returns it by name, `restore` puts it back.
    this.beside = { read: () => ({}), restore: () => {} };
    onReachable((isUp) => isUp && this.countSoon());
    // Only what was done here: another window may have stored its form since.
    window.addEventListener("pagehide", () => (this.saveTimer || (this.page && this.text && this.isTyped())) && this.save());
    const isOurs = (target) => target instanceof Element && target.closest(`#tab_${tab}`);
    for (const doing of DOINGS) document.addEventListener(doing, ({ target }) => isOurs(target) && this.noteDoing(target), { capture: true });
    // What is typed before the form's values arrive would be overwritten by them.
    document.addEventListener("input", ({ target }) => {
      const name = !this.page && PROMPTS.find((prompt) => this.element(prompt)?.contains(target));
      if (name) this.early[name] = target.value;
    });
  }

  // What was typed even before this script ran.
  noteEarly() {
    for (const name of PROMPTS) {
      const value = this.element(name)?.querySelector("textarea")?.value;
      if (value && !this.page) this.early[name] = value;
    }
  }

  values() {
    return { ...this.current, ...this.typed() };
  }

  // Prompts as they stand in their boxes: one may have been typed since the last look.
  typed() {
    const found = PROMPTS.map((name) => [name, this.element(name)?.querySelector("textarea")?.value]);
    return Object.fromEntries(found.filter(([, value]) => value !== undefined));
  }

  // The same as `values`, but prompts that were set a moment ago and that their boxes do not show yet are as they will be.
  coming() {
    const sent = { ...this.justSet, ...this.pending };
    return { ...this.values(), ...Object.fromEntries(PROMPTS.filter((name) => name in sent).map((name) => [name, sent[name]])) };
  }

  isTyped() {
    return Object.entries(this.typed()).some(([name, value]) => value !== this.current[name]);
  }

  noteDoing(target) {
    if (target.checked) this.ticked = target.closest(`[id^="${this.tab}_script_"]`)?.id || this.ticked;
    this.readSoon();
  }

  // Has all values read and handed to `remember`.
  readSoon() {
    clearTimeout(this.settleTimer);
    this.settleTimer = setTimeout(() => this.read(), SETTLE_MS);
    this.readTimer ??= setTimeout(() => this.read(), Math.max(0, this.nextRead - Date.now()));
  }

  read() {
    clearTimeout(this.readTimer);
    this.readTimer = null;
    this.nextRead = Date.now() + READ_PERIOD_MS;
    press(`${this.tab}_remember`);
  }

  element(name) {
    return document.getElementById(`${this.tab}_${ELEMENT_IDS[name] || name}`);
  }

  // Asks the server for something; what it answers comes to app.js.
  ask(name) {
    if (isReachable()) press(`${this.tab}_${name}`);
    else notify("The server cannot be reached. Try again when it is back.");
  }

  // What this browser remembers, as text; asked just before the form is filled from it.
  stored() {
    this.noteEarly();
    try {
      return localStorage.getItem(this.storageKey) || "";
    } catch {
      // Storage is forbidden: the form starts with its defaults.
      return "";
    }
  }

  // Called with the values of all widgets; those that were just set may not stand in theirs yet.
  remember(values) {
    const given = { ...values, ...this.justSet };
    this.keepOneScript(given);
    this.take(given);
  }

  take(given) {
    // As text: Gradio changes the list of styles in place.
    const text = JSON.stringify(given);
    if (text === this.text) return;
    [this.current, this.text] = [given, text];
    this.onChange(given);
    const counting = JSON.stringify(COUNTED.map((name) => given[name]));
    if (counting !== this.counted) this.countSoon();
    this.counted = counting;
    // Before the first answer the widgets hold defaults, which must not replace what is stored.
    if (!this.page) return;
    clearTimeout(this.saveTimer);
    this.saveTimer = setTimeout(() => this.save(), SAVE_DELAY_MS);
  }

  // A job has one script: ticking one takes the others off, as choosing one of A1111's list does.
  keepOneScript(given) {
    const boxOf = (name) => document.getElementById(`${this.tab}_script_${name.split(".")[0]}_enabled`);
    const ticked = Object.keys(given).filter((name) => name.endsWith(".enabled") && given[name] === true && boxOf(name));
    if (ticked.length < 2) return;
    const newest = ticked.find((name) => boxOf(name).id === this.ticked) || ticked[0];
    this.set(Object.fromEntries(ticked.filter((name) => name !== newest).map((name) => [name, false])));
  }

  countSoon() {
    clearTimeout(this.countTimer);
    this.countTimer = setTimeout(() => {
      if (isReachable()) this.ask("count_tokens");
    }, COUNT_DELAY_MS);
  }

  showTokens(counts) {
    this.tokens = counts;
    for (const [name, [used, room]] of Object.entries(counts)) {
      const prefix = name === "negative_prompt" ? "negative_" : "";
      const counter = document.getElementById(`${this.tab}_${prefix}token_counter`);
      if (counter) counter.textContent = `${used}/${room}`;
    }
  }

  save() {
    clearTimeout(this.saveTimer);
    this.saveTimer = null;
    const kept = { checkpoint: this.page.checkpoint, values: this.values() };
    try {
      localStorage.setItem(this.storageKey, JSON.stringify(kept));
    } catch {
      // Full or forbidden storage costs only the memory of the form.
    }
  }

  // Puts values into widgets, through the hidden button whose event may set them. A function is called with the
  // values that stand there.
  set(changes) {
    if (typeof changes === "function") this.pendingRule = changes;
    else Object.assign(this.pending, changes);
    press(`${this.tab}_apply`);
  }

  takePending(given) {
    const taken = { ...this.pendingRule?.(given), ...this.pending };
    this.pending = {};
    this.pendingRule = null;
    Object.assign(this.justSet, taken);
    clearTimeout(this.justSetTimer);
    this.justSetTimer = setTimeout(() => {
      this.justSet = {};
      this.readSoon();
    }, READ_PERIOD_MS);
    if (!this.isUndoing) this.undo.push(given);
    this.isUndoing = false;
    this.take({ ...given, ...this.justSet });
    return taken;
  }

  // Fills the form from a picture's text, as if it stood in the prompt; then sets `afterwards`.
  readInfotext(text, afterwards = {}) {
    this.infotext = text;
    this.afterwards = afterwards;
    this.ask("paste");
  }

  // Called just before the prompt is sent to be read; an empty one stands for the shown picture.
  beforePaste(given, shown) {
    const taken = this.infotext || given.prompt.trim() || shown;
    this.infotext = "";
    this.undo.push({ ...given, ...this.beside.read() });
    return { prompt: taken };
  }

  // Brings back what stood here before the page last changed it.
  undoLast() {
    dropMessages(UNDO);
    const beside = this.beside.read();
    const found = this.undo.pop({ ...this.current, ...beside });
    if (!found) {
      notify("There is nothing to undo.");
      return;
    }
    const isBeside = ([name]) => name in beside;
    const others = Object.entries(found).filter(isBeside);
    if (others.length) this.beside.restore(Object.fromEntries(others));
    const changes = Object.entries(found).filter((entry) => !isBeside(entry));
    if (!changes.length) return;
    this.isUndoing = true;
    this.set(Object.fromEntries(changes));
  }

  pasted() {
    if (Object.keys(this.afterwards).length) this.set(this.afterwards);
    this.afterwards = {};
  }

  setPage(facts) {
    const isFirst = !this.page;
    this.page = facts;
    this.redraw();
    if (isFirst && Object.keys(this.early).length) this.set(this.early);
  }

  // Draws what belongs to the checkpoint into elements that may be new.
  redraw() {
    if (!this.page) return;
    const area = document.getElementById(`${this.tab}_size_presets`);
    area?.replaceChildren(...this.page.sizes.map(([width, height]) => sizeButton(width, height)));
    if (this.tokens) this.showTokens(this.tokens);
    this.onChange(this.current);
  }

  setSize(text) {
    const [width, height] = text.split("x").map(Number);
    this.set({ width, height });
  }

  swapSize() {
    this.set(({ width, height }) => ({ width: height, height: width }));
  }

  clearPrompts() {
    const { prompt, negative_prompt: negative } = this.values();
    if (!prompt && !negative) return;
    this.set({ prompt: "", negative_prompt: "" });
    notify("Prompts cleared.", "info", {
      label: "Undo",
      run: () => this.set({ prompt, negative_prompt: negative }),
    }, UNDO);
  }

  // Shows which field a message is about, until it is changed.
  markBad(name) {
    const box = this.element(name);
    if (!box) return;
    box.classList.add("bad");
    const input = box.querySelector("input, textarea");
    input?.setAttribute("aria-invalid", "true");
    // A focused list would open and hide the message's neighbours.
    if (input?.getAttribute("role") !== "combobox") input?.focus();
    const clear = () => {
      box.classList.remove("bad");
      input?.removeAttribute("aria-invalid");
    };
    box.addEventListener("input", clear, { once: true });
  }
}

function sizeButton(width, height) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button small";
  button.dataset.size = `${width}x${height}`;
  button.textContent = width === height ? `${width}²` : `${width}×${height}`;
  button.title = `${width} by ${height} pixels`;
  return button;
}
