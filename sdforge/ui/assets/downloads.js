// Downloads: a field for a file of the hub, and how far each one is. Shown only where the server
// was started with --hub-downloads.

import { button, bytes, make } from "./dom.js";
import { request } from "./http.js";
import { notify } from "./notify.js";

const ROUTE = "api/v1/downloads";
const KINDS = {
  checkpoint: "Checkpoint",
  vae: "VAE",
  text_encoder: "Text encoder",
  lora: "Lora",
  embedding: "Embedding",
  controlnet: "ControlNet",
};
const STATES = { waiting: "waiting", running: "fetching", done: "done", failed: "failed", cancelled: "stopped" };

export class DownloadBox {
  // `onArrived` is called when a file has come.
  constructor(onArrived) {
    this.onArrived = onArrived;
    this.states = new Map();
  }

  mount(root) {
    this.file = make("input", { type: "text", id: "download_file", placeholder: "hf:owner/name/file.safetensors", "aria-label": "File of the hub", spellcheck: false });
    this.file.addEventListener("keydown", (event) => event.key === "Enter" && this.add());
    this.kind = make("select", { id: "download_kind", "aria-label": "Kind of file" }, Object.entries(KINDS).map(([key, text]) => make("option", { value: key }, text)));
    this.rows = make("div", { id: "download_rows" });
    const add = button("Download", () => this.add(), { id: "download_add", title: "Fetch this file from the hub into the models folder" });
    this.box = make("div", { id: "downloads", hidden: true }, make("div", { class: "tools" }, this.file, this.kind, add), this.rows);
    root.append(this.box);
  }

  async load() {
    clearTimeout(this.timer);
    try {
      const { enabled, downloads } = await request(ROUTE);
      this.box.hidden = !enabled;
      this.draw(downloads);
      if (downloads.some(isOpen)) this.timer = setTimeout(() => this.load(), 1000);
    } catch {
      this.timer = setTimeout(() => this.load(), 5000);
    }
  }

  draw(downloads) {
    this.rows.replaceChildren(...downloads.map((one) => this.row(one)));
    const arrived = downloads.filter((one) => one.state === "done" && isOpen({ state: this.states.get(one.id) }));
    this.states = new Map(downloads.map((one) => [one.id, one.state]));
    if (arrived.length) this.onArrived();
  }

  row(one) {
    const share = one.total_bytes ? one.done_bytes / one.total_bytes : 0;
    const size = one.total_bytes ? `${bytes(one.done_bytes)} / ${bytes(one.total_bytes)}` : "";
    return make(
      "div",
      { class: "tools", data: { download: String(one.id), state: one.state } },
      make("strong", {}, one.name),
      make("span", { class: "note" }, STATES[one.state]),
      one.state === "running" && make("progress", { max: 1, value: share, "aria-label": one.name }),
      make("span", { class: "note" }, size),
      one.error && make("span", { class: "card-error", role: "alert" }, one.error),
      button(isOpen(one) ? "Stop" : "Remove from list", () => this.cancel(one))
    );
  }

  async add() {
    try {
      const added = await request(ROUTE, { file: this.file.value, kind: this.kind.value });
      this.states.set(added.id, added.state);
      this.file.value = "";
      this.load();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  async cancel(one) {
    try {
      await request(`${ROUTE}/${one.id}`, undefined, { method: "DELETE" });
    } catch (error) {
      notify(error.message, "error");
    }
    this.load();
  }
}

function isOpen(one) {
  return one.state === "waiting" || one.state === "running";
}
