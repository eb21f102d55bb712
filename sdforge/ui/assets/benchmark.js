// The benchmark of the System tab: the current checkpoint draws one, two and four pictures at once,
// as jobs of the queue that are saved nowhere; what counts is told by their own timings.

import { button, make } from "./dom.js";
import { request } from "./http.js";

const BATCHES = [1, 2, 4];
const STEPS = 20;
// Kernels, caches and lazy loading are paid for by jobs that do not count.
const WARM_UP_STEPS = 2;
const LOOK_MS = 250;
const ENDED = ["done", "failed", "cancelled", "interrupted"];

export class Benchmark {
  // `size` returns [width, height] that suit the checkpoint.
  constructor(size) {
    this.size = size;
    this.running = null;
  }

  // Returns its part of the tab.
  make() {
    this.start = button("Run the benchmark", () => this.run(), { id: "run_benchmark" });
    this.stop = button("Interrupt", () => this.cancel(), { id: "stop_benchmark", hidden: true });
    this.state = make("span", { class: "note", role: "status" });
    this.table = make("div", { id: "benchmark_results" });
    return [
      make("p", { class: "note" }, `The checkpoint draws ${BATCHES.join(", ")} pictures at once, ${STEPS} steps each; nothing is saved.`),
      make("div", { class: "tools" }, this.start, this.stop, this.state),
      this.table,
    ];
  }

  async run() {
    this.cancelled = false;
    this.show(true);
    const rows = [];
    try {
      for (const batch of BATCHES) {
        await this.draw(batch, WARM_UP_STEPS);
        const job = await this.draw(batch, STEPS);
        rows.push(measured(batch, job));
        this.drawTable(rows);
      }
      this.state.textContent = "";
    } catch (error) {
      this.state.textContent = this.cancelled ? "Interrupted." : error.message;
    }
    this.show(false);
  }

  show(isRunning) {
    this.start.disabled = isRunning;
    this.stop.hidden = !isRunning;
  }

  // Resolves with the finished job.
  async draw(batch, steps) {
    this.state.textContent = batch === 1 ? "Measuring 1 picture at once…" : `Measuring ${batch} pictures at once…`;
    const [width, height] = this.size();
    const asked = { prompt: "a cat", seed: 1, steps, width, height, batch_size: batch, n_iter: 1, sampler_name: "Euler", cfg_scale: 7, save_images: false };
    let job = await request("api/v1/jobs/txt2img", asked);
    this.running = job.id;
    // Interrupt may have been pressed while the job was on its way, or between two.
    if (this.cancelled) await this.cancel();
    while (!ENDED.includes(job.status)) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      job = await request(`api/v1/jobs/${encodeURIComponent(this.running)}`);
    }
    this.running = null;
    if (job.status !== "done") throw new Error(job.error?.message || "Interrupted.");
    return job;
  }

  async cancel() {
    this.cancelled = true;
    if (this.running) await request(`api/v1/jobs/${encodeURIComponent(this.running)}/cancel`, {}).catch(() => null);
  }

  drawTable(rows) {
    const head = ["At once", "Size", "Steps per second", "Seconds per picture", "Sampling", "Decoding"].map((name) => make("th", { scope: "col" }, name));
    const body = rows.map((row) => make("tr", {}, row.map((text, index) => make(index ? "td" : "th", index ? {} : { scope: "row" }, text))));
    this.table.replaceChildren(make("table", { class: "facts" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
  }
}

// Steps of all pictures count, so that larger batches can be compared.
function measured(batch, job) {
  const { denoise = 0, decode = 0 } = job.timings;
  const whole = job.finished_at - job.started_at;
  const { width, height } = job.request;
  const seconds = (value) => `${value.toFixed(2)} s`;
  return [String(batch), `${width}×${height}`, denoise ? ((batch * STEPS) / denoise).toFixed(1) : "–", (whole / batch).toFixed(2), seconds(denoise), seconds(decode)];
}
