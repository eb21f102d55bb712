// Whether the server answers, and what its model is doing; shown beside the checkpoint.

import { isReachable, onReachable, request } from "./http.js";
import { notify } from "./notify.js";

const LOADING_MS = 400;
const IDLE_MS = 5000;
const AWAY_MS = 1000;
const HIDDEN_MS = 15000;

export class ServerStatus {
  constructor() {
    this.chosen = null;
    this.version = null;
    this.model = null;
    this.onTitleChanged = () => {};
    this.onFilesChanged = () => {};
    this.changes = null;
    this.timer = null;
  }

  begin() {
    onReachable((value) => this.showConnection(value));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || !isReachable()) return;
      this.ask();
      this.onTitleChanged();
    });
    this.ask();
  }

  // The page's checkpoint changed: loading has begun, so look at once.
  setChosen(facts) {
    this.chosen = facts;
    // Styles hide what means nothing to this kind of model.
    document.documentElement.dataset.family = facts.family;
    document.documentElement.dataset.variant = facts.variant;
    this.ask();
  }

  async ask() {
    clearTimeout(this.timer);
    try {
      const answer = await request("api/v1/status");
      if (this.version && answer.version && this.version !== answer.version) {
        notify("The server was updated. Reload the page to get its new version.", "error");
      }
      this.version = answer.version;
      // Model files came or went while the page was open.
      if (this.changes !== null && answer.model_changes !== this.changes) this.onFilesChanged();
      this.changes = answer.model_changes;
      this.take(answer.model || {});
    } catch {
      // showConnection says so already; the next question tells when it is back.
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), this.delay());
  }

  take(model) {
    const isNew = this.model !== null && model.title !== this.model.title;
    this.model = model;
    this.draw();
    // Another page or the API may have chosen it, or its hash is known now: ask what to show.
    if (isNew && model.title !== this.chosen?.title) this.onTitleChanged();
  }

  delay() {
    if (!isReachable()) return AWAY_MS;
    if (document.hidden) return HIDDEN_MS;
    return this.model?.loading ? LOADING_MS : IDLE_MS;
  }

  draw() {
    const box = document.getElementById("model_state");
    if (!box) return;
    const { loading, fraction, error, title } = this.model || {};
    const percent = Math.round(100 * (fraction || 0));
    let [state, text] = ["idle", "Loads when needed"];
    if (!isReachable()) text = "Not reachable";
    else if (error) [state, text] = ["error", error];
    else if (loading) [state, text] = ["loading", `Loading ${percent} %`];
    else if (title) [state, text] = ["ready", "Ready"];
    box.dataset.state = state;
    box.title = text;
    const words = box.querySelector(".text");
    // Written only when it changes: screen readers announce every write.
    if (words.textContent !== text) words.textContent = text;
    box.querySelector(".bar span").style.width = `${loading ? percent : 0}%`;
  }

  showConnection(isUp) {
    let banner = document.getElementById("connection");
    if (!banner) {
      banner = document.createElement("div");
      banner.id = "connection";
      banner.setAttribute("role", "status");
      document.body.append(banner);
    }
    banner.textContent = isUp ? "" : "The server cannot be reached. Reconnecting…";
    banner.hidden = isUp;
    this.draw();
    if (isUp) this.ask();
  }
}
