// From Generate to the picture: submits the form as a job and follows it, also after a reload.
//
// A job runs on the server whether or not this page looks on. Its id is made up here and stored
// before it is sent, so a page that is reloaded, or closed and opened again, finds it. The page asks
// for progress instead of keeping a stream open: browsers allow six connections to one server, and
// every open tab would hold one.

import { tellDone } from "./done.js";
import { Refused, Unreachable, isReachable, request } from "./http.js";
import { clearErrors, notify } from "./notify.js";
import { press } from "./form.js";

const FIRST_POLL_MS = 80;
const MIN_POLL_MS = 100;
const HIDDEN_POLL_MS = 2000;
const RETRY_MS = 1000;
// So long may the form be under way before its job is called lost.
const LOST_AFTER_MS = 20000;
// A1111 shows as many of a batch.
const BATCH_SHOWN = 32;
const FAILURES_SHOWN = 5;
const ACTIVE = new Set(["queued", "loading", "running"]);

export class JobFollower {
  constructor(tab) {
    this.tab = tab;
    this.results = tab.results;
    this.key = `sdforge.${tab.name}.tasks`;
    this.lastKey = `sdforge.${tab.name}.last`;
    this.tasks = [];
    this.unsent = [];
    this.period = 500;
    this.timer = null;
    this.preview = -1;
    this.shownImages = 0;
  }

  setPeriod(milliseconds) {
    if (milliseconds > 0) this.period = milliseconds;
  }

  isRunning() {
    return this.tasks.length > 0;
  }

  // `extra` goes with the stored pictures of the tab.
  async submit(extra = {}) {
    if (!isReachable()) {
      notify("The server cannot be reached. Nothing is lost: generate again when it is back.", "error");
      return;
    }
    clearErrors();
    const task = { id: `task(${randomName()})`, sent: Date.now(), accepted: false };
    this.tasks.push(task);
    if (this.tasks.length > 1) notify(`Queued: ${this.tasks.length - 1} after the one that runs.`, "info", null, `queued ${this.tab.name}`);
    this.results.begin();
    this.tab.sweep.stepBack();
    try {
      const pictures = await this.tab.picturesFor(extra);
      task.sent = Date.now();
      this.store();
      const script = extra.first ? "" : this.tab.script.text();
      this.unsent.push({ task_id: task.id, pictures: JSON.stringify(pictures), script });
      press(`${this.tab.name}_submit`);
      if (this.tasks[0] === task) this.follow();
    } catch (error) {
      this.drop(task.id);
      notify(error.message, "error");
    }
  }

  // Called just before the form is sent.
  beforeSubmit() {
    return this.unsent.shift() || { task_id: "", script: "" };
  }

  // The server's answer to the form.
  answered({ task, accepted, problem, sweep, batch, failures }) {
    const found = this.tasks.find((known) => known.id === task);
    if (found && accepted) found.accepted = true;
    if (found && batch) this.expect(found, batch);
    for (const sentence of (failures || []).slice(0, FAILURES_SHOWN)) notify(sentence, "warning");
    if (failures?.length > FAILURES_SHOWN) notify(`${failures.length - FAILURES_SHOWN} more pictures were left out.`, "warning");
    if (sweep) {
      this.drop(task);
      // It is no job that could be found again.
      localStorage.removeItem(this.lastKey);
      this.tab.sweep.follow(sweep);
      this.tab.script.began();
    }
    if (!problem) return;
    this.drop(task);
    this.forget(task);
    this.tab.showProblem(problem);
  }

  // The jobs of a batch belong together: their pictures are shown beside each other.
  expect(first, ids) {
    first.batch = first.id;
    const others = ids.slice(1).map((id) => ({ id, sent: Date.now(), accepted: true, batch: first.id }));
    this.tasks.splice(this.tasks.indexOf(first) + 1, 0, ...others);
    this.store();
  }

  // A job of a batch with the pictures of those before it.
  together(task, job) {
    if (!task.batch) return job;
    const before = this.batch?.id === task.batch ? this.batch.images : [];
    this.batch = { id: task.batch, images: [...before, ...job.images].slice(-BATCH_SHOWN) };
    return { ...job, images: this.batch.images };
  }

  // Attaches to what this tab, this browser or anybody's page left running.
  async resume() {
    this.tasks = readTasks("sessionStorage", this.key);
    if (this.tasks.length) {
      this.follow();
      return;
    }
    try {
      const kept = readTasks("localStorage", this.lastKey);
      if (kept.length > 1 && (await this.resumeSeveral(kept))) return;
      const last = kept.pop();
      const job = (last && (await this.find(last.id))) || (await this.newestRunning());
      if (job && job.id === last?.id) await this.showEarlier(last);
      // The user may have been quicker than the answer.
      if (!job || this.tasks.length) return;
      if (ACTIVE.has(job.status)) this.attach(job.id, job.id === last?.id ? last.earlier : []);
      else this.results.show(job, { isNews: false });
    } catch (error) {
      // Also where the page was not whole yet when it was to show the job.
      if (!(error instanceof Refused)) setTimeout(() => this.resume(), RETRY_MS);
    }
  }

  // What of several jobs of this browser still waits or runs; says whether there is any.
  async resumeSeveral(kept) {
    const active = await activeJobs();
    const mine = kept.filter(({ id }) => active.some((job) => job.id === id));
    if (!mine.length || this.tasks.length) return this.tasks.length > 0;
    this.tasks = mine.map((task) => ({ ...task, accepted: true }));
    this.store();
    this.follow();
    return true;
  }

  async find(id) {
    try {
      return await request(jobPath(id));
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      // Another database: asking for it again would be in vain.
      localStorage.removeItem(this.lastKey);
      return null;
    }
  }

  async newestRunning() {
    const kind = (job) => (job.request.init_images?.length ? "img2img" : "txt2img");
    const jobs = (await activeJobs()).filter((job) => job.origin === "ui" && kind(job) === this.tab.name);
    return jobs.find((job) => job.status !== "queued") || jobs[0];
  }

  attach(id, earlier = []) {
    this.tasks.push({ id, sent: Date.now(), accepted: true, earlier });
    this.follow();
  }

  follow() {
    this.preview = -1;
    this.shownImages = 0;
    this.results.begin();
    this.showEarlier(this.tasks[0]);
    this.next(FIRST_POLL_MS);
  }

  // Goes on with a job that was cut off: the batches that it lacks, or all when it has none.
  async drawRest(job) {
    if (!job || this.isRunning()) return;
    const known = this.results.earlier.of === job.id ? this.results.earlier.ids : [];
    const rest = job.images.length > 0;
    try {
      const { id } = await request(`${jobPath(job.id)}/retry?rest=${rest}`, {});
      this.tasks.push({ id, sent: Date.now(), accepted: true, earlier: rest ? [...known, job.id] : known });
      this.store();
      this.follow();
    } catch (error) {
      notify(error instanceof Refused ? error.message : "The server cannot be reached.", "error");
    }
  }

  // What was drawn before a job was cut off stays beside what its rest draws.
  async showEarlier(task) {
    const ids = task?.earlier || [];
    if (!ids.length || this.results.earlier.of === task.id) return;
    const jobs = await Promise.all(ids.map((id) => request(jobPath(id)).catch(() => null)));
    this.results.earlier = { of: task.id, ids, images: jobs.flatMap((job) => job?.images || []) };
    this.results.redraw();
  }

  next(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), milliseconds);
  }

  async poll() {
    const task = this.tasks[0];
    if (!task) return;
    const began = performance.now();
    try {
      const live = await request("internal/progress", this.question(task));
      if (task !== this.tasks[0]) return;
      if (live.active || live.queued || live.completed) task.accepted = true;
      // Asking for a job that has not arrived yet would be an error.
      const job = task.accepted ? await this.jobNow(task, live.job) : null;
      if (task !== this.tasks[0]) return;
      if (job?.status === "queued" && (await this.another(task))) return;
      if (job) this.show(task, job, live);
      else if (!task.accepted) this.giveUpIfLost(task);
      this.next(this.delay(job, performance.now() - began));
    } catch (error) {
      if (error instanceof Refused && error.status === 404) this.giveUp(task);
      else this.results.showText(error instanceof Unreachable ? "Reconnecting…" : error.message);
      this.next(RETRY_MS);
    }
  }

  // The queue may have been put into another order: what runs is what is shown. Says whether that is another job.
  async another(task) {
    if (this.tasks.length < 2) return false;
    const running = (await activeJobs("loading", "running")).map(({ id }) => id);
    const found = this.tasks.find(({ id }) => id !== task.id && running.includes(id));
    if (!found || task !== this.tasks[0]) return false;
    this.tasks = [found, ...this.tasks.filter((one) => one !== found)];
    this.store();
    this.follow();
    return true;
  }

  question(task) {
    return { id_task: task.id, id_live_preview: this.preview, live_preview: !document.hidden, with_job: true };
  }

  // The whole job is asked for when it is new here, has another picture or has ended.
  async jobNow(task, changed) {
    const known = this.known?.id === task.id && this.known;
    if (!known || !changed || !ACTIVE.has(changed.status) || changed.pictures !== known.images.length) {
      this.known = await request(jobPath(task.id));
      return this.known;
    }
    const { status, progress, cancel_requested } = changed;
    this.known = { ...known, status, progress, cancel_requested };
    return this.known;
  }

  show(task, job, live) {
    if (!ACTIVE.has(job.status)) {
      this.results.show(this.together(task, job));
      this.drop(task.id);
      this.tab.fit.again();
      if (!task.batch || !this.tasks.some((other) => other.batch === task.batch)) tellDone(job);
      return;
    }
    if (live.live_preview) this.preview = live.id_live_preview;
    if (!task.batch && job.images.length > this.shownImages) {
      this.shownImages = job.images.length;
      this.results.showImages(job);
    }
    this.results.showProgress(job, live, this.tasks.length - 1);
  }

  delay(job, took) {
    if (!job) return MIN_POLL_MS;
    if (document.hidden) return HIDDEN_POLL_MS;
    // The last poll comes just when the picture is expected, not half a period later.
    const eta = job.progress.eta_seconds;
    const end = eta > 0 ? eta * 1000 + 30 : Infinity;
    return Math.max(MIN_POLL_MS, Math.min(Math.max(this.period, 2 * took), end));
  }

  giveUpIfLost(task) {
    if (Date.now() - task.sent > LOST_AFTER_MS) this.giveUp(task);
  }

  giveUp(task) {
    this.drop(task.id);
    notify("The server does not know this job. The form is unchanged: generate again.", "error");
  }

  // A job that was refused is none to come back to.
  forget(id) {
    if (!readTasks("localStorage", this.lastKey).some((task) => task.id === id)) return;
    localStorage.removeItem(this.lastKey);
  }

  drop(id) {
    const wasFirst = this.tasks[0]?.id === id;
    this.tasks = this.tasks.filter((task) => task.id !== id);
    this.store();
    if (!this.tasks.length) this.results.end();
    else if (wasFirst) this.follow();
  }

  async cancel() {
    if (!this.tasks.length && this.tab.sweep.isRunning()) {
      this.results.showText("Interrupting…");
      await this.tab.sweep.tell("cancel");
      return;
    }
    await this.tell("cancel", "Interrupting…");
  }

  async skip() {
    await this.tell("skip", "Skipping…");
  }

  async tell(what, text) {
    const task = this.tasks[0];
    if (!task) return;
    this.results.showText(text);
    try {
      // Who interrupts a batch means all of it.
      const meant = what === "cancel" && task.batch ? this.tasks.filter((one) => one.batch === task.batch) : [task];
      for (const one of meant.reverse()) await request(`${jobPath(one.id)}/${what}`, {});
      this.next(MIN_POLL_MS);
    } catch (error) {
      notify(error instanceof Refused ? error.message : "The server cannot be reached.", "error");
    }
  }

  store() {
    const text = JSON.stringify(this.tasks);
    try {
      sessionStorage.setItem(this.key, text);
      if (this.tasks.length) localStorage.setItem(this.lastKey, text);
    } catch {
      // Without storage a reload finds the job among those that run.
    }
  }
}

// Newest first.
function activeJobs(...statuses) {
  const wanted = statuses.length ? statuses : [...ACTIVE];
  return request(`api/v1/jobs?${wanted.map((status) => `status=${status}`).join("&")}`);
}

function jobPath(id) {
  return `api/v1/jobs/${encodeURIComponent(id)}`;
}

function readTasks(storage, key) {
  try {
    const tasks = JSON.parse(window[storage].getItem(key) || "[]");
    return Array.isArray(tasks) ? tasks.filter((task) => typeof task?.id === "string") : [];
  } catch {
    return [];
  }
}

function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  return [...bytes].map((byte) => (byte % 36).toString(36)).join("") + Date.now().toString(36);
}
