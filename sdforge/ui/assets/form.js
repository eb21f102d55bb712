// Values of the form: kept in this browser, put into Gradio's widgets, marked when they are bad.

import { isReachable, onReachable } from "./http.js";
import { notify } from "./notify.js";

const STORAGE_KEY = "sdforge.txt2img.form";
const SAVE_DELAY_MS = 300;
const COUNT_DELAY_MS = 300;
const COUNTERS = {
  prompt: "txt2img_token_counter",
  negative_prompt: "txt2img_negative_token_counter",
};
const PROMPTS = ["prompt", "negative_prompt"];
// Rows of core/fields.py whose element id differs from their name.
const ELEMENT_IDS = { negative_prompt: "neg_prompt", sampler: "sampling", schedule: "scheduler" };

let current = {};
let pending = {};
const early = {};
let infotext = "";
let page = null;
let saveTimer = null;
let countTimer = null;

export function values() {
  return { ...current };
}

export function element(name) {
  return document.getElementById(`txt2img_${ELEMENT_IDS[name] || name}`);
}

// Presses one of the page's hidden buttons; all but "apply" ask the server.
export function press(name) {
  if (name !== "apply" && !isReachable()) {
    notify("The server cannot be reached. Try again when it is back.");
    return;
  }
  document.getElementById(`sdforge_${name}`)?.click();
}

// Called just before the page's load event is sent.
export function stored() {
  let text = "";
  try {
    text = localStorage.getItem(STORAGE_KEY) || "";
  } catch {
    // Storage is forbidden: the form starts with its defaults.
  }
  return { stored: text };
}

// Called at every change of any widget, with all values.
export function remember(given) {
  const isNewPrompt = PROMPTS.some((name) => given[name] !== current[name]);
  current = given;
  if (isNewPrompt) countSoon();
  // Before the first answer the widgets hold defaults, which must not replace what is stored.
  if (!page) return;
  clearTimeout(saveTimer);
  saveTimer = setTimeout(save, SAVE_DELAY_MS);
}

function countSoon() {
  clearTimeout(countTimer);
  countTimer = setTimeout(() => {
    if (isReachable()) press("count_tokens");
  }, COUNT_DELAY_MS);
}

onReachable((isUp) => {
  if (isUp) countSoon();
});

export function showTokens(counts) {
  for (const [name, [used, room]] of Object.entries(counts)) {
    const counter = document.getElementById(COUNTERS[name]);
    if (counter) counter.textContent = `${used}/${room}`;
  }
}

function save() {
  saveTimer = null;
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify({ checkpoint: page.checkpoint, values: current }));
  } catch {
    // Full or forbidden storage costs only the memory of the form.
  }
}

window.addEventListener("pagehide", () => {
  if (saveTimer) save();
});

// Puts values into widgets, through the hidden button whose event may set them.
export function set(changes) {
  Object.assign(pending, changes);
  press("apply");
}

export function takePending(given) {
  const taken = pending;
  pending = {};
  current = { ...given, ...taken };
  return taken;
}

// Fills the form from a picture's text, as if it stood in the prompt.
export function readInfotext(text) {
  infotext = text;
  press("paste");
}

// Called just before the prompt is sent to be read; an empty one stands for the shown picture.
export function beforePaste(given, shown) {
  const taken = infotext || given.prompt.trim() || shown;
  infotext = "";
  return { prompt: taken };
}

export function setPage(facts) {
  const isFirst = !page;
  page = facts;
  redraw();
  if (isFirst && Object.keys(early).length) set(early);
}

// What is typed before the form's values arrive would be overwritten by them.
document.addEventListener("input", ({ target }) => {
  const name = !page && PROMPTS.find((prompt) => element(prompt)?.contains(target));
  if (name) early[name] = target.value;
});

// Draws what belongs to the checkpoint into elements that may be new.
export function redraw() {
  if (!page) return;
  const area = document.getElementById("txt2img_size_presets");
  if (area) area.replaceChildren(...page.sizes.map(([width, height]) => sizeButton(width, height)));
}

function sizeButton(width, height) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button small";
  button.dataset.size = `${width}x${height}`;
  button.textContent = width === height ? `${width}²` : `${width}×${height}`;
  button.setAttribute("aria-label", `${width} by ${height} pixels`);
  return button;
}

export function setSize(text) {
  const [width, height] = text.split("x").map(Number);
  set({ width, height });
}

// Shows which field a message is about, until it is changed.
export function markBad(name) {
  const box = element(name);
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
