// A sweep on the page: asks for what changed and lets the grid grow; cells can be looked at, skipped,
// drawn first, drawn again, and taken into the form. The server goes on without the page.

import { button, make } from "./dom.js";
import { Refused, Unreachable, address, request } from "./http.js";
import { notify } from "./notify.js";

const POLL_MS = 400;
const HIDDEN_POLL_MS = 3000;
const WORDS = { waiting: "", running: "…", failed: "failed", skipped: "skipped", done: "no picture" };

export class SweepView {
  constructor(tab) {
    this.tab = tab;
    this.key = `sdforge.${tab.name}.sweep`;
    this.sweep = null;
    this.cells = [];
    this.elements = [];
    this.timer = null;
    this.hidden = { columns: new Set(), rows: new Set() };
    this.size = 140;
  }

  isRunning() {
    return this.sweep?.status === "running";
  }

  // Attaches to the sweep that this tab looked at before a reload.
  resume() {
    try {
      const id = sessionStorage.getItem(this.key);
      if (id) this.follow(id);
    } catch {
      // Storage is forbidden.
    }
  }

  // A grid that is done makes room for what is drawn next.
  stepBack() {
    if (!this.isRunning()) this.setBack(true);
  }

  setBack(isBack) {
    this.box()?.closest(".results-side")?.classList.toggle("grid-below", isBack);
  }

  follow(id) {
    this.setBack(false);
    this.id = id;
    this.sweep = null;
    this.cells = [];
    this.winner = null;
    this.hidden = { columns: new Set(), rows: new Set() };
    try {
      sessionStorage.setItem(this.key, id);
    } catch {
      // The grid is then gone from the page with a reload, not from the server.
    }
    this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    const id = this.id;
    try {
      const after = this.sweep ? this.sweep.revision : 0;
      const found = await request(`api/v1/sweeps/${encodeURIComponent(id)}?after=${after}`);
      if (id !== this.id) return;
      const isNew = !this.sweep;
      this.sweep = found;
      for (const cell of found.cells) this.cells[cell.index] = cell;
      if (isNew) this.redraw();
      else for (const cell of found.cells) this.drawCell(cell.index);
      this.drawHead();
      this.showProgress();
      if (this.isRunning()) this.timer = setTimeout(() => this.poll(), document.hidden ? HIDDEN_POLL_MS : POLL_MS);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) return this.close();
      if (error instanceof Unreachable) this.tab.results.showText("Reconnecting…");
      this.timer = setTimeout(() => this.poll(), HIDDEN_POLL_MS);
    }
  }

  showProgress() {
    const { results, jobs } = this.tab;
    if (jobs.isRunning()) return;
    if (!this.isRunning()) {
      if (results.running) results.end();
      return;
    }
    if (!results.running) results.begin();
    const { done, failed, skipped } = this.sweep.counts;
    const settled = done + failed + skipped;
    const fill = results.part("progress")?.querySelector(".fill");
    if (fill) fill.style.width = `${Math.round((100 * settled) / this.cells.length)}%`;
    results.showText(`${settled} of ${this.cells.length} cells`);
  }

  box() {
    return document.getElementById(`${this.tab.name}_sweep`);
  }

  // Draws everything into elements that may be new.
  redraw() {
    const box = this.box();
    if (!box || !this.sweep) return;
    const { shape, axes } = this.sweep;
    const [across, down = 1] = shape;
    const blocks = this.cells.length / (across * down);
    this.elements = [];
    this.head = make("div", { class: "sweep-head" });
    const tables = [];
    for (let block = 0; block < blocks; block += 1) tables.push(this.table(block, across, down, axes));
    this.scroll = make("div", { class: "sweep-tables" }, ...tables);
    this.scroll.style.setProperty("--cell", `${this.size}px`);
    box.replaceChildren(this.head, this.scroll);
    box.hidden = false;
    this.cells.forEach((_, index) => this.drawCell(index));
    this.drawHead();
  }

  table(block, across, down, axes) {
    const start = block * across * down;
    const heads = axes[0].legends.map((text, column) => this.legend(text, "columns", column, "col"));
    const rows = [];
    for (let row = 0; row < down; row += 1) {
      const cells = [];
      for (let column = 0; column < across; column += 1) {
        const index = start + row * across + column;
        this.elements[index] = make("td", { data: { columns: column, rows: row } });
        cells.push(this.elements[index]);
      }
      rows.push(make("tr", { data: { rows: row } }, this.legend(axes[1]?.legends[row] || "", "rows", row, "row"), ...cells));
    }
    const title = axes.slice(2).map((axis, number) => axis.legends[Math.floor(block / stride(axes, number)) % axis.legends.length]);
    const grid = () => make("a", { class: "button tiny", href: address(`${this.sweep.urls.grid}?format=png&block=${block}`), target: "_blank", rel: "noopener", title: "This part as one picture" }, "Grid");
    const caption = title.some(Boolean) ? make("caption", {}, title.filter(Boolean).join(", "), " ", grid()) : null;
    return make("table", {}, caption, make("tr", {}, make("th"), ...heads), ...rows);
  }

  legend(text, kind, number, scope) {
    const toggle = make("button", { type: "button", title: "Hide or show", onclick: () => this.toggle(kind, number) }, text);
    return make("th", { scope, data: { [kind]: number } }, text ? toggle : "");
  }

  // Folds a row or a column away, in all tables.
  toggle(kind, number) {
    const folded = this.hidden[kind];
    if (!folded.delete(number)) folded.add(number);
    for (const element of this.box().querySelectorAll(`[data-${kind}="${number}"]`)) element.classList.toggle("folded", folded.has(number));
  }

  drawCell(index) {
    const place = this.elements[index];
    const cell = this.cells[index];
    if (!place || !cell) return;
    place.className = cell.status;
    place.classList.toggle("winner", index === this.winner);
    for (const kind of ["columns", "rows"]) place.classList.toggle("folded", this.hidden[kind].has(Number(place.dataset[kind])));
    const picture = cell.images[0];
    const open = () => this.open(index);
    if (picture) {
      const shown = make("img", { src: address(picture.url), alt: `Cell ${index + 1}`, loading: "lazy", decoding: "async" });
      place.replaceChildren(make("button", { type: "button", class: "cell", title: "Show this cell", onclick: open }, shown), this.cellTools(cell));
    } else {
      const text = cell.error || WORDS[cell.status];
      place.replaceChildren(make("span", { class: "hole", title: text }, text), this.cellTools(cell));
    }
  }

  cellTools(cell) {
    const tools = [];
    const tool = (text, title, what) => tools.push(button(text, () => this.tell(`cells/${cell.index}/${what}`), { class: "button tiny", title }));
    if (cell.status === "waiting") tool("↑", "Draw this cell next", "first");
    if (cell.status === "waiting" || cell.status === "running") tool("×", "Skip this cell", "skip");
    // One that failed without a job was broken from the start and has nothing to draw.
    else if (cell.job || cell.status === "skipped") tool("↻", "Draw this cell again", "retry");
    if (cell.images.length) tools.push(button("★", () => this.take(cell.index), { class: "button tiny", title: "The winner: put its values into the form" }));
    return make("span", { class: "cell-tools" }, ...tools);
  }

  drawHead() {
    if (!this.head) return;
    const { counts, status, title, urls, notices } = this.sweep;
    const words = Object.entries(counts).filter(([, count]) => count).map(([name, count]) => `${count} ${name}`);
    const isOpen = counts.failed + counts.skipped > 0 && status !== "running";
    const zoom = make("input", { type: "range", min: "40", max: "360", value: String(this.size), "aria-label": "Size of cells" });
    zoom.addEventListener("input", () => {
      this.size = Number(zoom.value);
      this.scroll.style.setProperty("--cell", `${this.size}px`);
    });
    const link = (text, href, hint) => make("a", { class: "button small", href: address(href), target: "_blank", rel: "noopener", title: hint }, text);
    // Rebuilt only when its words change, or a pressed slider would be let go.
    const now = JSON.stringify([words, status]);
    if (this.head.dataset.shown === now) return;
    this.head.dataset.shown = now;
    this.head.replaceChildren(
      make("strong", {}, title),
      make("span", { class: "sweep-counts" }, words.join(" · ")),
      zoom,
      ...(status === "running" ? [button("Stop", () => this.tell("cancel"), { class: "button small" })] : []),
      ...(status === "cancelled" ? [button("Go on", () => this.tell("resume"), { class: "button small" })] : []),
      ...(isOpen ? [button("Draw missing", () => this.tell("retry"), { class: "button small" })] : []),
      link("Grid", `${urls.grid}?format=png`, "The grid as one picture"),
      link("Page", urls.page, "All cells as a page"),
      link("CSV", urls.table, "All parameters of all cells"),
      button("Close", () => this.close(), { class: "button small", title: "Take the grid off the page; the sweep goes on" }),
      ...notices.map((text) => make("p", { class: "sweep-notice" }, text))
    );
  }

  // Shows a cell as if it were a job's picture, so that all tools of the results work on it.
  async open(index) {
    try {
      const cell = await request(`api/v1/sweeps/${encodeURIComponent(this.id)}/cells/${index}`);
      const images = cell.images.map((image, number) => ({ ...image, index: number, media_type: "image/png", infotext: cell.infotexts[number] }));
      this.tab.results.show({ id: cell.job, status: "done", images, progress: {}, timings: {} }, { isNews: false });
      for (const element of this.elements) element?.classList.remove("chosen");
      this.elements[index]?.classList.add("chosen");
    } catch (error) {
      notify(error.message, "error");
    }
  }

  // The winner: its values go into the form, which then draws one picture of the kind and no grid.
  async take(index) {
    await this.open(index);
    const text = this.tab.results.infotext();
    if (!text) return;
    this.winner = index;
    for (const element of this.elements) element?.classList.remove("winner");
    this.elements[index]?.classList.add("winner");
    this.tab.script.choose("");
    this.tab.form.readInfotext(text);
    notify("The form has the values of this cell.");
  }

  async tell(what) {
    try {
      await request(`api/v1/sweeps/${encodeURIComponent(this.id)}/${what}`, {});
      this.poll();
    } catch (error) {
      notify(error instanceof Refused ? error.message : "The server cannot be reached.", "error");
    }
  }

  close() {
    clearTimeout(this.timer);
    this.id = null;
    this.sweep = null;
    try {
      sessionStorage.removeItem(this.key);
    } catch {
      // Nothing was kept.
    }
    const box = this.box();
    if (box) box.hidden = true;
    if (!this.tab.jobs.isRunning() && this.tab.results.running) this.tab.results.end();
  }
}

// How many blocks one step of a further axis takes.
function stride(axes, number) {
  return axes.slice(2, 2 + number).reduce((product, axis) => product * axis.legends.length, 1);
}
