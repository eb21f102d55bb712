// "Will it fit?": what the form would take, said beside Generate before it is pressed.
//
// Asked when the form has rested, one question at a time; typing never waits for it.

import { button, bytes, debounced, duration, make } from "./dom.js";
import { isReachable, onReachable, request } from "./http.js";
import { notify } from "./notify.js";

const REST_MS = 500;
// An answer that is this late is not waited for any longer.
const LOST_MS = 15000;
// Prompts change nothing that is estimated.
const IGNORED = new Set(["prompt", "negative_prompt", "styles", "seed", "subseed", "hires_prompt", "hires_negative_prompt"]);
const PHASES = { encode: "Prompt", denoise: "Sampling", decode: "Decoding", "vae-encode": "Encoding" };

export class FitChip {
  constructor(tab) {
    this.tab = tab;
    this.answer = null;
    this.asked = "";
    this.askedAt = 0;
    this.soon = debounced(() => this.ask(), REST_MS);
    onReachable((isUp) => isUp && this.again());
  }

  // Called at every change of the form.
  changed(values) {
    const counts = Object.entries(values).filter(([name]) => !IGNORED.has(name));
    const text = JSON.stringify([counts, this.tab.picturesNow()]);
    if (text === this.wanted) return;
    this.wanted = text;
    this.soon();
  }

  // The same form may take something else now: another checkpoint, a setting, a job that was timed.
  again() {
    this.asked = "";
    this.soon();
  }

  ask() {
    if (!this.tab.form.page || this.wanted === this.asked || !isReachable() || !this.tab.isShown()) return;
    if (this.askedAt && Date.now() - this.askedAt < LOST_MS) {
      // The answer that is under way asks again.
      return;
    }
    this.asked = this.wanted;
    this.askedAt = Date.now();
    this.tab.form.ask("estimate");
  }

  take(answer) {
    this.askedAt = 0;
    this.answer = answer;
    this.draw();
    if (this.wanted !== this.asked) this.soon();
  }

  draw() {
    const chip = document.getElementById(`${this.tab.name}_fit`);
    const { answer } = this;
    if (!chip || !answer) return;
    const [state, text] = summary(answer);
    chip.dataset.state = state;
    const words = chip.querySelector(".fit-text");
    // Written only when it changes: screen readers announce every write.
    if (words.textContent !== text) words.textContent = text;
    chip.querySelector(".fit-body").replaceChildren(...(answer.problem ? [make("p", {}, answer.problem)] : details(answer)));
    const fix = document.getElementById(`${this.tab.name}_fit_fix`);
    const best = !answer.problem && !answer.fits && answer.alternatives[0];
    fix.hidden = !best;
    if (best) fix.textContent = `Make it fit: ${describe(best, answer)}`;
    const others = !answer.problem && !answer.fits ? answer.alternatives.slice(1) : [];
    if (others.length) chip.querySelector(".fit-body").append(this.choices(others));
  }

  choices(others) {
    const buttons = others.map((one) => button(describe(one, this.answer), () => this.apply(one), { class: "button small" }));
    return make("div", { class: "fit-choices" }, make("p", {}, "This would fit too:"), buttons);
  }

  fix() {
    const best = this.answer?.alternatives?.[0];
    if (best) this.apply(best);
  }

  // Puts an alternative into the form; another memory mode is a setting of the server.
  async apply(choice) {
    const { mode, asked } = this.answer;
    const changes = { batch_size: choice.batch_size };
    if (choice.width !== asked.width || choice.height !== asked.height) {
      // With hires fix the largest pass is what counts, and the form has the first one's size.
      const { width, height } = this.tab.form.values();
      const fitted = (length, whole, part) => Math.max(64, Math.floor((length * part) / whole / 8) * 8);
      changes.width = fitted(Number(width), asked.width, choice.width);
      changes.height = fitted(Number(height), asked.height, choice.height);
    }
    try {
      if (choice.mode !== mode) {
        await request("sdapi/v1/options", { memory_mode: choice.mode });
        notify(`Memory mode is ${choice.mode} now, for all jobs of this server. Settings has it.`, "info");
      }
      this.tab.form.set(changes);
      this.again();
    } catch (error) {
      notify(error.message, "error");
    }
  }
}

function summary(answer) {
  if (answer.problem) return ["unknown", "No estimate"];
  const { total_bytes: total } = answer.budget;
  const time = answer.seconds === null ? [] : [`~${duration(answer.seconds)}`];
  const parts = [`${bytes(answer.peak_bytes)} of ${bytes(total)}`, ...time, answer.mode];
  if (!answer.fits) return ["bad", ["Will not fit", ...parts].join(" · ")];
  const isTight = answer.phases.some((phase) => phase.streams) || !answer.cond_batching || answer.vae.startsWith("tiled");
  return [isTight ? "tight" : "good", parts.join(" · ")];
}

function describe({ mode, width, height, batch_size: batch }, answer) {
  const words = [];
  if (width !== answer.asked.width || height !== answer.asked.height) words.push(`${width}×${height}`);
  if (batch !== answer.asked.batch_size) words.push(batch === 1 ? "one at a time" : `${batch} at a time`);
  if (mode !== answer.mode) words.push(mode);
  return words.join(", ") || `${width}×${height}`;
}

function details(answer) {
  const { budget } = answer;
  const rows = answer.phases.map((phase) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, PHASES[phase.name] || phase.name),
      make("td", {}, bytes(phase.weights_bytes)),
      make("td", {}, bytes(phase.working_bytes)),
      make("td", {}, bytes(phase.peak_bytes))
    )
  );
  const head = ["Phase", "Weights", "Working", "Peak"].map((name) => make("th", { scope: "col" }, name));
  return [
    make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)),
    make("p", {}, `${budget.device}: ${bytes(budget.total_bytes)} in all, ${bytes(budget.inference_bytes)} kept for inference, ${bytes(budget.foreign_bytes)} held by other programs.`),
    make("p", {}, `Memory mode ${answer.mode}: ${answer.mode_reason}.`),
    answer.passes.length > 1 ? make("p", {}, `The figures are those of ${answer.checkpoint}, the most that a pass takes.`) : "",
    ...answer.reasons.map((reason) => make("p", {}, reason)),
    answer.seconds === null ? make("p", {}, "The time is known after the first picture of this checkpoint.") : "",
  ].filter(Boolean);
}
