// Queue: what runs and what waits, whoever sent it, in an order that can be changed; and what became
// of the last jobs.

import { button, duration, make, moment } from "./dom.js";
import { address, request } from "./http.js";
import { notify } from "./notify.js";

const PERIOD_MS = 1000;
const RECENT = 20;
const ENDED = "status=done&status=failed&status=cancelled&status=interrupted";
const ACTIVE = ["queued", "loading", "running"];
const WORDS = {
  queued: "Waiting",
  loading: "Loading",
  running: "Running",
  done: "Done",
  failed: "Failed",
  cancelled: "Interrupted",
  interrupted: "Server stopped",
};
// Jobs that have a size and steps of their own.
const SAMPLED = { txt2img: true, img2img: true };
const ORIGINS = { ui: "page", api: "API" };

export class QueuePanel {
  // `tabs` are those with a form, by name: a job of theirs can be shown there again.
  constructor(tabs) {
    this.tabs = tabs;
  }

  mount(root) {
    this.count = make("span", { class: "note", role: "status" });
    this.pause = button("Pause", () => this.act(this.isPaused ? "queue/resume" : "queue/pause"), { id: "queue_pause", title: "The running job goes on; no other is started" });
    this.cancelAll = button("Cancel all that wait", () => this.act("queue/clear"), { id: "queue_cancel_all" });
    this.active = make("ol", { class: "job-list", id: "queue_active", "aria-label": "Jobs that run or wait" });
    this.recent = make("ol", { class: "job-list", id: "queue_recent", "aria-label": "Jobs that ended" });
    root.append(
      make("div", { class: "tools panel-head" }, make("h2", {}, "Running and waiting"), this.pause, this.cancelAll, this.count),
      this.active,
      make("h2", {}, "Ended"),
      this.recent
    );
  }

  opened() {
    clearInterval(this.timer);
    this.timer = setInterval(() => this.ask(), PERIOD_MS);
    this.ask();
  }

  closed() {
    clearInterval(this.timer);
  }

  async ask() {
    if (document.hidden || this.asking) return;
    this.asking = true;
    try {
      const [queue, recent] = await Promise.all([request("api/v1/queue"), request(`api/v1/jobs?limit=${RECENT}&${ENDED}`)]);
      this.draw(queue, recent);
    } catch {
      // The banner says that the server is away; the next second asks again.
    }
    this.asking = false;
  }

  draw({ paused, running, waiting }, recent) {
    this.waiting = waiting;
    this.isPaused = paused;
    const count = waiting.length;
    this.pause.textContent = paused ? "Resume" : "Pause";
    this.pause.setAttribute("aria-pressed", String(paused));
    if (paused) this.count.textContent = "Paused: no waiting job is started.";
    else this.count.textContent = running.length + count ? `${count} waiting` : "Nothing runs and nothing waits.";
    this.cancelAll.disabled = !count;
    update(this.active, [...running, ...waiting], (job) => this.row(job));
    update(this.recent, recent, (job) => this.row(job));
  }

  row(job) {
    const { request: asked, progress, images } = job;
    const isActive = ACTIVE.includes(job.status);
    const percent = Math.round(100 * Math.min(1, progress.fraction || 0));
    const facts = [
      job.kind,
      ...(job.kind in SAMPLED ? [`${asked.width}×${asked.height}`, `${asked.steps} steps`] : []),
      asked.batch_count * asked.batch_size > 1 ? `${asked.batch_count * asked.batch_size} pictures` : "",
      asked.checkpoint?.split(" [")[0],
      ORIGINS[job.origin] || job.origin,
      moment(job.created_at),
      job.started_at && job.finished_at ? duration(job.finished_at - job.started_at) : "",
    ];
    const state = job.status === "running" && progress.steps ? `${WORDS.running} ${percent} %` : WORDS[job.status] || job.status;
    // What was never saved may be gone from memory.
    const last = images.findLast((image) => image.path || isActive);
    const face = last ? make("img", { src: address(last.url), alt: "", loading: "lazy" }) : make("span", { class: "job-face" });
    return make(
      "li",
      { class: "job", data: { job: job.id, status: job.status } },
      face,
      make(
        "div",
        { class: "job-words" },
        make("strong", { data: { verbatim: "" } }, asked.prompt || "(no prompt)"),
        make("span", { class: "note" }, joined(facts.filter(Boolean))),
        job.error ? make("span", { class: "card-error" }, job.error.message) : null,
        isActive && job.status !== "queued" ? bar(percent) : null
      ),
      make("span", { class: "job-state" }, job.cancel_requested && isActive ? "Interrupting…" : state),
      make("div", { class: "tools" }, this.actions(job, isActive))
    );
  }

  actions(job, isActive) {
    const small = { class: "button small" };
    if (job.status === "queued") {
      const index = this.waiting.findIndex((one) => one.id === job.id);
      const move = (text, label, to) => button(text, () => this.act(`jobs/${encodeURIComponent(job.id)}/place`, { index: to }), { ...small, title: label, "aria-label": `${label}: ${job.request.prompt.slice(0, 60)}`, disabled: to < 0 || to >= this.waiting.length });
      return [move("⤒", "Run next", index ? 0 : -1), move("↑", "Earlier", index - 1), move("↓", "Later", index + 1), this.cancelButton(job)];
    }
    if (isActive) return [this.cancelButton(job)];
    const again = button("Again", () => this.act(`jobs/${encodeURIComponent(job.id)}/retry`), { ...small, title: "Queue it once more, with its seeds and settings", "aria-label": `Again: ${job.request.prompt.slice(0, 60)}` });
    if (!job.images.length || !(job.kind in this.tabs)) return [again];
    return [again, button("Show", () => this.show(job), { ...small, "aria-label": `Show: ${job.request.prompt.slice(0, 60)}` })];
  }

  show(job) {
    const tab = this.tabs[job.kind];
    tab.open();
    if (!tab.jobs.isRunning()) tab.results.show(job, { isNews: false });
    else notify("A job of this tab is running; its pictures are shown first.");
  }

  cancelButton(job) {
    const label = `Cancel: ${job.request.prompt.slice(0, 60)}`;
    return button("Cancel", () => this.act(`jobs/${encodeURIComponent(job.id)}/cancel`), { class: "button small", "aria-label": label });
  }

  async act(path, body = {}) {
    try {
      await request(`api/v1/${path}`, body);
      this.ask();
    } catch (error) {
      notify(error.message, "error");
    }
  }
}

// Each fact is a text of its own, so that each can be translated.
function joined(facts) {
  return facts.flatMap((fact, index) => (index ? [" · ", fact] : [fact]));
}

function bar(percent) {
  const fill = make("span", {});
  fill.style.width = `${percent}%`;
  return make("span", { class: "job-bar", role: "progressbar", "aria-label": "Progress", "aria-valuenow": String(percent), "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
}

// Redraws only the rows that changed, so that focus and pictures stay.
function update(list, jobs, draw) {
  const known = new Map([...list.children].map((row) => [row.dataset.job, row]));
  const rows = jobs.map((job, index) => {
    const place = job.status === "queued" ? [index, jobs.length] : [];
    const key = JSON.stringify([job.status, job.progress.fraction, job.images.length, job.cancel_requested, place]);
    const before = known.get(job.id);
    if (before?.dataset.key === key) return before;
    const row = draw(job);
    row.dataset.key = key;
    return row;
  });
  if (rows.length !== list.children.length || rows.some((row, index) => row !== list.children[index])) list.replaceChildren(...rows);
}
