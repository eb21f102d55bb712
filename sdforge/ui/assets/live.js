// The Live tab: what is typed or sketched is wished for at once, frames come over a WebSocket.
//
// live_socket.js speaks the protocol (docs/live.md), sketch.js paints; here is what is on screen. The
// form is remembered in this browser. The connection is open while the tab is in sight.

import { button, make } from "./dom.js";
import { LiveSocket } from "./live_socket.js";
import { notify } from "./notify.js";
import { Sketch } from "./sketch.js";

const STORAGE_KEY = "sdforge.live.form";
const DEFAULTS = {
  prompt: "", negative_prompt: "", seed: -1, steps: 0, size: "auto", decoder: "auto", source: "noise",
  strength: 0.6, budget_ms: 400, speed_lora: true,
};
const SOURCES = [["noise", "Noise"], ["picture", "Sketch"], ["frame", "Last frame"]];
const DECODERS = [["auto", "Automatic"], ["full", "VAE"], ["small", "Small (TAESD)"], ["linear", "Linear"]];
const STAGES = ["load", "tokenise", "encode", "input", "denoise", "decode", "copy", "encode image", "network"];

export class LivePanel {
  // `tabs` are those with a form: a kept frame is shown in txt2img.
  constructor(tabs) {
    this.tabs = tabs;
    this.values = { ...DEFAULTS, ...remembered() };
    this.facts = null;
    this.shown = null;
    this.sketch = new Sketch(() => this.sketched());
    this.socket = new LiveSocket({
      open: () => this.connected(),
      close: (reason) => this.say("away", reason),
      ready: (message) => this.setFacts(message),
      state: (message) => this.say(message.state, message.text),
      frame: (header, url) => this.show(header, url),
      pace: (message) => this.setPace(message),
      kept: (message) => this.kept(message),
      error: (message) => this.failed(message),
    });
  }

  mount(root) {
    this.widgets = {
      prompt: make("textarea", { id: "live_prompt", rows: 3, placeholder: "Type; the picture follows", "aria-label": "Prompt" }),
      negative_prompt: make("textarea", { id: "live_negative_prompt", rows: 1, placeholder: "Negative prompt", "aria-label": "Negative prompt" }),
      source: choice("live_source", SOURCES),
      strength: make("input", { id: "live_strength", type: "range", min: 0, max: 1, step: 0.05 }),
      steps: choice("live_steps", []),
      size: choice("live_size", []),
      decoder: choice("live_decoder", DECODERS),
      budget_ms: make("input", { id: "live_budget", type: "number", min: 20, max: 60000, step: 10 }),
      seed: make("input", { id: "live_seed", type: "number", min: -1, max: 4294967295, step: 1 }),
      speed_lora: make("input", { id: "live_speed_lora", type: "checkbox" }),
    };
    this.fillChoices();
    for (const [name, widget] of Object.entries(this.widgets)) {
      if (widget.type === "checkbox") widget.checked = this.values[name];
      else widget.value = this.values[name];
      widget.addEventListener("input", () => this.changed(name, widget));
    }
    const field = (name, label, ...more) =>
      make("div", { class: "live-field" }, make("label", { for: this.widgets[name].id }, label), this.widgets[name], ...more);
    this.strengthText = make("output", { class: "live-number" });
    this.picture = make("img", { id: "live_picture", alt: "The newest frame", hidden: true });
    this.hint = make("p", { class: "hint" }, "The picture appears here");
    this.state = make("p", { id: "live_state", class: "live-state", role: "status" }, "Connecting…");
    this.note = make("p", { id: "live_note", class: "live-note" });
    this.pace = make("p", { id: "live_pace", class: "live-pace" });
    this.timings = make("ul", { id: "live_timings", class: "legend", "aria-label": "Where the time of this frame went", data: { verbatim: "" } });
    this.keep = button("Keep", () => this.keepFrame(), { id: "live_keep", class: "button primary", title: "Draw this frame as an ordinary job, and save it", disabled: true });
    this.sketchBox = make("div", { class: "live-sketch" });
    this.sketch.mount(this.sketchBox);
    root.append(
      make("div", { class: "two-columns live" },
        make("div", { class: "live-form" },
          this.widgets.prompt, this.widgets.negative_prompt,
          make("div", { class: "live-fields" },
            field("source", "Start from"), field("strength", "Strength", this.strengthText), field("budget_ms", "Latency budget (ms)"),
            field("steps", "Steps"), field("size", "Size"), field("decoder", "Decoder"), field("seed", "Seed"),
            make("div", { class: "live-field live-check" }, this.widgets.speed_lora, make("label", { for: "live_speed_lora" }, "LoRA for few steps"))),
          this.note, this.sketchBox),
        make("div", { class: "live-view" },
          make("div", { class: "stage live-stage" }, this.picture, this.hint),
          make("div", { class: "tools" }, this.keep, button("Another seed", () => this.another(), { id: "live_reseed" }), this.state),
          this.pace, this.timings))
    );
    this.drawSource();
    if (this.shown) this.drawFrame();
  }

  // --- in and out of sight ----------------------------------------------------------------------

  opened() {
    this.socket.open();
  }

  closed() {
    this.socket.close();
    this.say("away", "Live mode rests while this tab is out of sight.");
  }

  connected() {
    this.say("ready", "Connected");
    this.sketched();
  }

  // --- what is wished for -----------------------------------------------------------------------

  changed(name, widget) {
    let value = widget.type === "checkbox" ? widget.checked : widget.value;
    if (typeof DEFAULTS[name] === "number") value = Number(value);
    if (typeof value === "number" && !Number.isFinite(value)) return;
    this.values[name] = value;
    this.store();
    if (name === "source" || name === "strength") this.drawSource();
    if (name === "source" && value === "picture") this.sketched();
    else this.wish();
  }

  wish() {
    const { size, ...rest } = this.values;
    const [width, height] = size === "auto" ? [0, 0] : size.split("x").map(Number);
    this.socket.wish({ ...rest, width, height });
  }

  async sketched() {
    if (this.values.source === "picture") this.socket.picture(await this.sketch.toBlob());
    if (this.values.prompt || this.values.source === "picture") this.wish();
  }

  another() {
    this.values.seed = Math.floor(Math.random() * 4294967295);
    this.widgets.seed.value = this.values.seed;
    this.store();
    this.wish();
  }

  // --- what comes back --------------------------------------------------------------------------

  show(header, url) {
    if (this.shown) URL.revokeObjectURL(this.shown.url);
    this.shown = { header, url };
    this.drawFrame();
  }

  drawFrame() {
    const { header, url } = this.shown;
    this.picture.src = url;
    this.picture.hidden = false;
    this.hint.hidden = true;
    this.keep.disabled = false;
    Object.assign(this.picture.dataset, { number: header.number, seed: header.seed, decoder: header.decoder });
    this.drawTimings(header.timings_ms);
    const notes = header.notes.join(" ");
    this.note.textContent = notes || this.facts?.reason || "";
  }

  drawTimings(timings) {
    const rows = STAGES.filter((name) => timings[name] !== undefined);
    this.timings.replaceChildren(...rows.map((name) => make("li", {}, `${name} ${timings[name].toFixed(1)} ms`)));
  }

  setPace(message) {
    if (!this.pace) return;
    const { header } = this.shown || {};
    const parts = [`${message.fps.toFixed(1)} FPS`, `± ${message.jitter_ms.toFixed(0)} ms`];
    if (header) parts.push(`${header.asked_width} × ${header.asked_height}`, `Steps: ${header.steps}`, DECODERS.find(([name]) => name === header.decoder)[1]);
    parts.push(`${message.frame_ms.toFixed(0)} ms a frame`, `${message.latency_ms.toFixed(0)} ms to the screen`, `${message.superseded} superseded`);
    this.pace.replaceChildren(...parts.map((text) => make("span", {}, text)));
    if (header && header.number === message.number) this.drawTimings({ ...header.timings_ms, network: message.network_ms });
  }

  setFacts(facts) {
    const isFirst = this.facts === null;
    this.facts = facts;
    this.fillChoices();
    if (this.note) this.note.textContent = facts.reason;
    // Another checkpoint draws another picture.
    if (!isFirst && this.values.prompt) this.wish();
  }

  fillChoices() {
    if (!this.widgets) return;
    const { steps = [], sizes = [] } = this.facts || {};
    fill(this.widgets.steps, [["0", "Automatic"], ...[...steps].reverse().map((count) => [String(count), String(count)])], String(this.values.steps));
    const named = sizes.map(([width, height]) => [`${width}x${height}`, `${width} × ${height}`]);
    fill(this.widgets.size, [["auto", "Automatic"], ...named], this.values.size);
    const [width, height] = sizes[0] || [512, 512];
    this.sketch.setSize(width, height);
  }

  drawSource() {
    const { source, strength } = this.values;
    this.strengthText.textContent = Number(strength).toFixed(2);
    this.widgets.strength.disabled = source === "noise";
    this.sketchBox.hidden = source !== "picture";
  }

  say(state, text) {
    if (!this.state) return;
    this.state.dataset.state = state;
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  keepFrame() {
    if (this.shown) this.socket.keep(this.shown.header.number);
  }

  kept({ job }) {
    this.lastKept = job;
    notify("Kept: the job draws it with the VAE, and saves it.");
  }

  failed(message) {
    // What is typed is wrong for a moment all the time: no message that has to be closed.
    if (message.number !== null) this.note.textContent = message.message;
    else notify(message.message, "error");
  }

  store() {
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.values));
    } catch {
      // Storage is forbidden: the form begins anew next time.
    }
  }
}

function choice(id, rows) {
  const select = make("select", { id });
  fill(select, rows, rows[0]?.[0]);
  return select;
}

function fill(select, rows, value) {
  const known = rows.some(([name]) => name === value) || value === undefined ? rows : [...rows, [value, value]];
  const names = JSON.stringify(known);
  if (select.dataset.names !== names) {
    select.dataset.names = names;
    select.replaceChildren(...known.map(([name, label]) => make("option", { value: name }, label)));
  }
  if (value !== undefined) select.value = value;
}

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORAGE_KEY) || "{}") || {};
    return Object.fromEntries(Object.entries(kept).filter(([name, value]) => typeof value === typeof DEFAULTS[name]));
  } catch {
    return {};
  }
}
