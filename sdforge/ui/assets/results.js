// The right side of the tab: progress and preview over the gallery, the selected picture, its text.

import { duration, make } from "./dom.js";
import { address } from "./http.js";
import { notify } from "./notify.js";
import { download, zip } from "./zip.js";

const ENDINGS = {
  failed: "Failed.",
  cancelled: "Interrupted.",
  interrupted: "The server stopped while this job ran.",
};
const CUT_OFF = ["interrupted", "cancelled"];
const FORMS = ["txt2img", "img2img"];
const STAGE_NAMES = { load: "load", encode: "prompt", denoise: "sampling", reuse: "first pass again", upscale: "enlarging", decode: "decode", save: "save" };

export class Results {
  constructor(tab) {
    this.tab = tab;
    this.job = null;
    this.selected = 0;
    this.running = false;
    this.ended = null;
    // What the jobs `ids` drew before they were cut off; the job `of` draws the rest.
    this.earlier = { of: null, ids: [], images: [] };
    this.title = document.title || "sdforge";
  }

  part(name) {
    return document.getElementById(name.includes(this.tab) ? name : `${this.tab}_${name}`);
  }

  // Of a job that draws the rest of an earlier one, also the earlier one's.
  images() {
    return [...this.before(this.job), ...(this.job?.images || [])];
  }

  before(job) {
    return job && this.earlier.of === job.id ? this.earlier.images : [];
  }

  picture() {
    return this.images()[this.selected] || null;
  }

  infotext() {
    return this.picture()?.infotext || "";
  }

  seed() {
    return this.picture()?.seed;
  }

  subseed() {
    const found = /(?:^|[\n,]) *Variation seed: (\d+)/.exec(this.infotext());
    return found ? Number(found[1]) : undefined;
  }

  begin() {
    this.running = true;
    this.setRunning();
    this.showText("Waiting…");
  }

  end() {
    this.running = false;
    this.setRunning();
    document.title = this.title;
    hide(this.part("progress"), true);
    this.hidePreview();
  }

  // Draws everything again into elements that are new.
  redraw() {
    this.setRunning();
    this.select(this.selected);
    if (this.ended) this.showLog(this.ended);
  }

  setRunning() {
    hide(this.part("running"), !this.running);
    const generate = this.part("generate");
    if (generate) generate.classList.toggle("covered", this.running);
    this.showEmpty();
  }

  showText(text) {
    if (!this.running) return;
    const line = this.part("progress");
    if (!line) return;
    hide(line, false);
    line.querySelector(".text").textContent = text;
  }

  // `job` is the REST API's, `live` the answer of /internal/progress with the newest preview.
  showProgress(job, live, waiting) {
    const line = this.part("progress");
    if (!line) return;
    const isQueued = job.status === "queued";
    const { fraction, eta_seconds: eta } = job.progress;
    const percent = isQueued ? 0 : Math.round(100 * Math.min(1, fraction));
    const fill = line.querySelector(".fill");
    fill.style.width = `${percent}%`;
    fill.setAttribute("aria-valuenow", String(percent));
    const left = eta > 0 ? `ETA ${duration(eta)}` : "";
    const parts = isQueued ? [live.textinfo] : [`${percent} %`, left, ...stageTexts(job)];
    if (waiting > 0) parts.push(`${waiting} more in queue`);
    this.showText(parts.filter(Boolean).join(" · "));
    document.title = `[${isQueued ? "queued" : `${percent}% ${left}`.trim()}] ${this.title}`;
    if (live.live_preview) this.showPreview(live.live_preview);
  }

  showPreview(source) {
    const box = this.part("live_preview");
    if (!box) return;
    box.querySelector("img").src = source;
    hide(box, false);
    this.showEmpty();
  }

  hidePreview() {
    const box = this.part("live_preview");
    if (!box) return;
    hide(box, true);
    box.querySelector("img").removeAttribute("src");
  }

  // Pictures of a job that is still running.
  showImages(job) {
    this.setJob(job, this.before(job).length + job.images.length - 1);
  }

  // A finished job. What was on screen stays if it has no pictures.
  show(job, { isNews = true } = {}) {
    if (job.images.length) this.setJob(job, 0);
    this.ended = job;
    this.showLog(job);
    if (!isNews) return;
    for (const sentence of job.progress.notices || []) notify(sentence, "warning");
    if (job.status === "failed") notify(job.error?.message || "The job failed.", "error");
    else if (ENDINGS[job.status]) notify(ENDINGS[job.status]);
  }

  setJob(job, selected) {
    this.job = job;
    this.select(selected);
    this.hidePreview();
  }

  select(index) {
    const images = this.images();
    this.selected = Math.max(0, Math.min(index, images.length - 1));
    this.drawPicture();
    this.drawThumbnails();
    this.drawTools();
    this.drawInfotext();
    this.showEmpty();
  }

  move(by) {
    const count = this.images().length;
    if (count) this.select((this.selected + by + count) % count);
  }

  // Buttons stay while their pictures change, so that the keyboard's focus stays too.
  drawPicture() {
    const picture = this.picture();
    const gallery = this.part("gallery");
    if (!gallery) return;
    if (!picture) {
      gallery.replaceChildren();
      return;
    }
    let button = gallery.querySelector("button");
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.className = "picture";
      button.title = "Show large";
      button.id = `${this.tab}_enlarge`;
      gallery.replaceChildren(button);
    }
    button.replaceChildren(image(picture, this.selected));
  }

  drawThumbnails() {
    const strip = this.part("thumbnails");
    if (!strip) return;
    const images = this.images();
    hide(strip, images.length < 2);
    const wanted = images.map((picture) => picture.url).join(" ");
    if (strip.dataset.shown !== wanted) {
      strip.dataset.shown = wanted;
      strip.replaceChildren(...images.map(thumbnail));
    }
    [...strip.children].forEach((button, index) => {
      button.setAttribute("aria-current", String(index === this.selected));
    });
    const hadFocus = strip.contains(document.activeElement);
    if (hadFocus) strip.children[this.selected]?.focus();
    const chosen = strip.children[this.selected];
    // The strip alone: the page must not move under the user.
    if (chosen) strip.scrollLeft = chosen.offsetLeft - strip.offsetLeft - (strip.clientWidth - chosen.clientWidth) / 2;
  }

  drawTools() {
    const picture = this.picture();
    hide(this.part(`image_buttons_${this.tab}`), !picture);
    const [open, save] = [this.part("open"), this.part(`save_${this.tab}`)];
    // Gradio may not have made them yet: then all is drawn again when it has.
    if (!picture || !open || !save) return;
    open.href = address(picture.url);
    save.href = address(picture.url);
    save.download = fileName(picture);
    hide(this.part(`save_zip_${this.tab}`), this.images().length < 2);
  }

  drawInfotext() {
    const box = this.part(`html_info_${this.tab}`);
    if (box) box.replaceChildren(...paragraphs(this.infotext()));
  }

  showLog(job) {
    const box = this.part(`html_log_${this.tab}`);
    if (!box) return;
    const words = [];
    if (ENDINGS[job.status]) words.push(job.error?.message ? `${ENDINGS[job.status]} ${job.error.message}` : ENDINGS[job.status]);
    if (job.started_at && job.finished_at) words.push(`Time taken: ${duration(job.finished_at - job.started_at)}`);
    const stages = Object.entries(job.timings || {})
      .filter(([name, seconds]) => name && seconds >= 0.05)
      .map(([name, seconds]) => `${STAGE_NAMES[name] || name} ${duration(seconds)}`);
    if (stages.length) words.push(`(${stages.join(" · ")})`);
    box.replaceChildren(words.join(" "), ...this.restButton(job));
    box.classList.toggle("failed", job.status === "failed");
  }

  // For what was cut off: draws the pictures that are missing, or all again when none is there.
  restButton(job) {
    const { batch_count: batches, batch_size: size } = job.request || {};
    const isCut = CUT_OFF.includes(job.status) && FORMS.includes(job.kind);
    if (!isCut || job.images.length >= batches * size) return [];
    const text = job.images.length ? "Draw the rest" : "Draw it again";
    return [" ", make("button", { type: "button", class: "button small", id: `${this.tab}_rest`, title: "With the same seeds and settings" }, text)];
  }

  showEmpty() {
    const preview = this.part("live_preview");
    const isEmpty = !this.images().length && (!preview || preview.hidden);
    hide(this.part("empty"), !isEmpty || this.running);
  }

  async saveZip() {
    try {
      const files = await Promise.all(
        this.images().map(async (picture) => {
          const answer = await fetch(address(picture.url));
          if (!answer.ok) throw new Error(`${fileName(picture)}: the server answered ${answer.status}.`);
          return { name: fileName(picture), bytes: new Uint8Array(await answer.arrayBuffer()) };
        })
      );
      download(zip(files), "images.zip");
    } catch (error) {
      notify(error.message, "error");
    }
  }

  async copyInfotext() {
    try {
      await navigator.clipboard.writeText(this.infotext());
      notify("Copied.");
    } catch {
      notify("The browser does not allow copying here; select the text and copy it by hand.", "error");
    }
  }
}

function stageTexts(job) {
  const { text, step, steps, stage } = job.progress;
  const asked = job.cancel_requested ? "Interrupting…" : "";
  const tiles = stage === "upscale" && steps > 1 ? `tile ${step}/${steps}` : "";
  return [asked, stage === "denoise" ? stepText(step, steps) : tiles, text];
}

// How many there will be is not known of samplers that choose their own steps.
function stepText(step, steps) {
  if (steps) return `step ${step}/${steps}`;
  return step ? `step ${step}` : "";
}

function hide(element, isHidden) {
  if (element) element.hidden = isHidden;
}

function image(picture, index) {
  const element = document.createElement("img");
  element.src = address(picture.url);
  element.width = picture.width;
  element.height = picture.height;
  element.alt = `Picture ${index + 1}: ${picture.infotext.split("\n")[0].slice(0, 120)}`;
  element.decoding = "async";
  return element;
}

function thumbnail(picture, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "thumbnail-item";
  button.dataset.picture = String(index);
  button.append(image(picture, index));
  return button;
}

export function fileName(picture) {
  const known = picture.path?.split(/[\\/]/).pop();
  const suffix = (picture.media_type || "image/png").split("/")[1].replace("jpeg", "jpg");
  return known || `${String(picture.index).padStart(5, "0")}-${picture.seed}.${suffix}`;
}

function paragraphs(infotext) {
  return infotext.split("\n").filter(Boolean).map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  });
}

