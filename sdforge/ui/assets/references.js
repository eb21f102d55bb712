// Pictures that Kontext, Flux.2 and Qwen-Image-Edit refer to beside the one of img2img. They go to the
// engine's store as they are chosen; their names are kept in this browser and sent with every job.

import { button, make } from "./dom.js";
import { droppedPictures } from "./dropped.js";
import { address, upload } from "./http.js";
import { notify } from "./notify.js";

const MOST = 10;

export class ReferenceBox {
  constructor(tab) {
    this.tab = tab;
    this.key = `sdforge.${tab.name}.references`;
    this.refs = this.restored();
    this.sending = new Set();
  }

  // What a job gets; waits for what is under way.
  async stored() {
    await Promise.all(this.sending);
    return this.refs;
  }

  // Gradio made the element anew.
  redraw() {
    this.root = document.getElementById(`${this.tab.name}_references`);
    if (!this.root || this.root.dataset.drawn) return;
    this.root.dataset.drawn = "yes";
    if (this.refs.length) this.root.open = true;
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    // Its own pictures are there already.
    this.root.addEventListener("dragstart", () => (this.isOwn = true));
    this.root.addEventListener("dragend", () => (this.isOwn = false));
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (this.isOwn) return;
      droppedPictures(event.dataTransfer).then((files) => this.takeAll(files)).catch((error) => notify(error.message, "error"));
    });
    this.draw();
  }

  draw() {
    const body = this.root?.querySelector(".references-body");
    if (!body) return;
    this.root.querySelector("summary").textContent = this.refs.length ? `Reference pictures · ${this.refs.length}` : "Reference pictures";
    const file = make("input", { type: "file", accept: "image/*", multiple: true, hidden: true, id: `${this.tab.name}_references_file`, "aria-label": "Reference pictures: files" });
    file.onchange = () => this.takeAll(file.files);
    body.replaceChildren(
      make("p", { class: "note" }, "Kontext, Flux.2 and Qwen-Image-Edit look at these; in img2img behind the picture itself."),
      make("div", { class: "reference-list", role: "list" }, this.refs.map((ref, place) => this.item(ref, place))),
      make("div", { class: "reference-tools" }, button("Add pictures", () => file.click(), { disabled: this.refs.length >= MOST }), file)
    );
  }

  item(ref, place) {
    const picture = make("img", { src: address(`api/v1/inputs/${ref.sha256}`), alt: `Reference picture ${place + 1}` });
    // The store keeps pictures for a while only.
    picture.onerror = () => this.set(this.refs.filter((one) => one !== ref));
    const remove = button("✕", () => this.set(this.refs.filter((one) => one !== ref)), { class: "button small", "aria-label": `Remove reference picture ${place + 1}` });
    return make("div", { class: "reference", role: "listitem" }, picture, remove);
  }

  async takeAll(files) {
    const pictures = [...files].filter((file) => file.type.startsWith("image/"));
    if (this.refs.length + pictures.length > MOST) notify(`At most ${MOST} pictures can be referred to.`, "warning");
    for (const picture of pictures.slice(0, MOST - this.refs.length)) {
      const sent = upload("api/v1/inputs", picture);
      this.sending.add(sent);
      try {
        this.set([...this.refs, await sent]);
      } catch (error) {
        notify(`${picture.name}: ${error.message}`, "error");
      } finally {
        this.sending.delete(sent);
      }
    }
  }

  set(refs) {
    this.refs = refs;
    try {
      localStorage.setItem(this.key, JSON.stringify(refs));
    } catch {
      // Without storage a reload forgets them.
    }
    this.draw();
    this.tab.fit.again();
  }

  restored() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.key) || "[]");
      return Array.isArray(kept) ? kept.filter((ref) => ref?.sha256).slice(0, MOST) : [];
    } catch {
      return [];
    }
  }
}
