// History: every picture on disk, found by words, marked, thrown away and brought back, sent to a
// form.

import { openDialog } from "./card_editor.js";
import { button, bytes, debounced, icon, make, moment } from "./dom.js";
import { address, request } from "./http.js";
import { notify } from "./notify.js";

const PAGE = 60;
const KINDS = { "": "All kinds", txt2img: "txt2img", img2img: "img2img", extras: "Extras", imported: "Imported" };
const TRASH = "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5";
const ROUTES = "api/v1/history";

export class HistoryPanel {
  // `tabs` are those that take pictures, by name.
  constructor(tabs) {
    this.tabs = tabs;
    this.view = { q: "", kind: "", favourite: false, trash: false };
    this.number = 0;
  }

  mount(root) {
    this.search = make("input", { type: "search", id: "history_search", placeholder: "Search prompts, models, seeds", "aria-label": "Search pictures", value: this.view.q });
    this.search.addEventListener("input", debounced(() => this.set({ q: this.search.value.trim() }), 250));
    this.kind = make("select", { id: "history_kind", "aria-label": "Kind of pictures" }, Object.entries(KINDS).map(([value, text]) => make("option", { value }, text)));
    this.kind.value = this.view.kind;
    this.kind.addEventListener("change", () => this.set({ kind: this.kind.value }));
    this.favourites = button("Favourites", () => this.set({ favourite: !this.view.favourite }), { id: "history_favourites" });
    this.trash = button("Trash", () => this.set({ trash: !this.view.trash }), { id: "history_trash" });
    this.empty = button("Empty the trash", () => this.askToEmpty(), { id: "history_empty", hidden: true });
    this.find = button("Look on disk", () => this.importFiles(), { id: "history_import", title: "Add pictures of the output folders that are not known yet" });
    this.count = make("span", { class: "note", role: "status" });
    this.grid = make("div", { class: "cards pictures", id: "history_pictures" });
    this.grid.addEventListener("click", (event) => this.clicked(event));
    this.more = button("Show more", () => this.load(true), { id: "history_more", hidden: true });
    // The next page comes before its end is reached.
    this.near = new IntersectionObserver(([entry]) => entry.isIntersecting && this.load(true), { rootMargin: "600px" });
    this.near.observe(this.more);
    root.append(
      make("div", { class: "tools panel-head" }, this.search, this.kind, make("div", { class: "segments-bar" }, this.favourites, this.trash), this.empty, this.find, this.count),
      this.grid,
      make("div", { class: "tools more" }, this.more)
    );
    this.load();
  }

  opened() {
    if (this.pictures) this.load();
  }

  set(changes) {
    Object.assign(this.view, changes);
    this.load();
  }

  // `goesOn`: the next page below those that are there.
  async load(goesOn = false) {
    if (goesOn && (this.loading || !this.pictures || this.pictures.length >= this.total)) return;
    const number = ++this.number;
    const { q, kind, favourite, trash } = this.view;
    const offset = goesOn ? this.pictures.length : 0;
    const question = new URLSearchParams({ q, kind, offset, limit: goesOn ? PAGE : Math.max(PAGE, this.shownCount()), trash });
    if (favourite) question.set("favourite", "true");
    this.loading = true;
    try {
      const answer = await request(`${ROUTES}?${question}`);
      // Meanwhile something else was looked for.
      if (number !== this.number) return;
      this.take(answer, goesOn);
    } catch (error) {
      this.count.textContent = error.message;
    } finally {
      if (number === this.number) this.loading = false;
    }
  }

  // A look back at the tab must not jump to the first page.
  shownCount() {
    return Math.min(this.pictures?.length || 0, 500);
  }

  take({ total, pictures }, goesOn) {
    this.total = total;
    this.pictures = goesOn ? [...this.pictures, ...pictures] : pictures;
    this.more.hidden = this.pictures.length >= total;
    this.count.textContent = total === 1 ? "1 picture" : total ? `${total} pictures` : this.view.trash ? "The trash is empty." : "No pictures found.";
    this.favourites.setAttribute("aria-pressed", String(this.view.favourite));
    this.trash.setAttribute("aria-pressed", String(this.view.trash));
    this.empty.hidden = !this.view.trash || !total;
    const known = new Map([...this.grid.children].map((card) => [card.dataset.key, card]));
    this.grid.replaceChildren(...this.pictures.map((picture) => known.get(keyOf(picture)) || this.card(picture)));
  }

  card(picture) {
    const words = picture.prompt || picture.name;
    const face = picture.is_missing
      ? make("span", { class: "card-letter" }, "?")
      : make("img", { src: `${address(picture.thumbnail)}?size=256`, alt: words.slice(0, 120), loading: "lazy", decoding: "async" });
    const throwAway = this.view.trash
      ? tool("↩", "Bring back", "restore")
      : tool(icon(TRASH), "Move to the trash", "trash");
    return make(
      "div",
      { class: "card", data: { number: String(picture.number), key: keyOf(picture) } },
      make("button", { type: "button", class: "card-face", title: words }, face),
      make("div", { class: "card-tools" }, tool(picture.is_favourite ? "★" : "☆", picture.is_favourite ? "No favourite any more" : "Mark as favourite", "favourite", picture.is_favourite), throwAway)
    );
  }

  clicked(event) {
    const card = event.target.closest(".card");
    const picture = card && this.pictures.find((one) => String(one.number) === card.dataset.number);
    if (!picture) return;
    const what = event.target.closest("[data-does]")?.dataset.does;
    if (what === "favourite") this.mark(picture);
    else if (what === "trash") this.throwAway(picture);
    else if (what === "restore") this.restore([picture.number]);
    else if (event.target.closest(".card-face")) this.open(picture);
  }

  async mark(picture) {
    await this.run(async () => {
      await request(`${ROUTES}/${picture.number}/favourite`, undefined, { method: picture.is_favourite ? "DELETE" : "PUT" });
    });
  }

  async throwAway(picture) {
    const isDone = await this.run(() => request(`${ROUTES}/trash`, { numbers: [picture.number] }));
    if (isDone) notify("Moved to the trash.", "info", { label: "Undo", run: () => this.restore([picture.number]) });
  }

  async restore(numbers) {
    await this.run(() => request(`${ROUTES}/restore`, { numbers }));
  }

  askToEmpty() {
    const dialog = make("dialog", { class: "dialog", "aria-label": "Empty the trash" }, make("h2", {}, "Empty the trash?"), make("p", {}, "The pictures in it are deleted for good."));
    const empty = async () => {
      dialog.close();
      await this.run(() => request(`${ROUTES}/empty-trash`, {}));
    };
    dialog.append(
      make("div", { class: "tools dialog-buttons" }, button("Delete them", empty, { class: "button danger", id: "history_empty_sure" }), button("Cancel", () => dialog.close()))
    );
    openDialog(dialog);
  }

  async importFiles() {
    await this.run(async () => {
      await request(`${ROUTES}/import`, {});
      notify("Looking through the output folders; new pictures appear here.");
    });
  }

  async run(work) {
    try {
      const answer = await work();
      const reasons = Object.values(answer?.failed || {});
      if (reasons.length) notify(String(reasons[0]), "error");
      await this.load();
      return !reasons.length;
    } catch (error) {
      notify(error.message, "error");
      return false;
    }
  }

  async open({ number }) {
    let picture;
    try {
      picture = await request(`${ROUTES}/${number}`);
    } catch (error) {
      notify(error.message, "error");
      return;
    }
    const dialog = make(
      "dialog",
      { class: "dialog wide", id: "history_picture", "aria-label": `Picture ${picture.name}` },
      make("a", { href: address(picture.url), target: "_blank", rel: "noopener", title: "Open the picture in a new tab" }, make("img", { class: "history-large", src: address(picture.url), alt: picture.prompt.slice(0, 120) })),
      make("p", { class: "note" }, `${picture.name} · ${picture.width}×${picture.height} · ${bytes(picture.bytes)} · ${moment(picture.created_at)}`),
      make("pre", { class: "infotext-raw" }, picture.infotext || "This picture holds no parameters."),
      make("div", { class: "tools" }, this.targets(picture, () => dialog.close()), button("Close", () => dialog.close()))
    );
    openDialog(dialog);
  }

  targets(picture, close) {
    const given = { url: address(picture.url), infotext: picture.infotext, width: picture.width, height: picture.height };
    const sends = {
      "Send to txt2img": () => {
        this.tabs.txt2img.open();
        if (picture.infotext) this.tabs.txt2img.form.readInfotext(picture.infotext);
      },
      "Send to img2img": () => this.tabs.img2img.receive(given, "img2img"),
      "Send to inpaint": () => this.tabs.img2img.receive(given, "inpaint"),
      "Send to extras": () => this.tabs.extras.receive(given),
      Enlarge: () => {
        this.tabs.txt2img.open();
        this.tabs.txt2img.enlarge(given);
      },
      "Draw it again": () => this.drawAgain(picture),
    };
    return Object.entries(sends).map(([text, run]) =>
      button(text, () => {
        close();
        run();
      })
    );
  }

  async drawAgain(picture) {
    const isDone = await this.run(() => request(`${ROUTES}/${picture.number}/again`, {}));
    if (isDone) notify("Queued once more, with its seed and settings.");
  }
}

function keyOf({ number, is_favourite: isFavourite, trashed_at: trashed, is_missing: isMissing }) {
  return `${number} ${isFavourite} ${trashed} ${isMissing}`;
}

function tool(face, label, what, isOn = false) {
  return make("button", { type: "button", class: isOn ? "on" : "", title: label, "aria-label": label, data: { does: what } }, face);
}
