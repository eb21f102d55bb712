// Settings: a form made from the server's table. Nothing is sent before "Apply settings".

import { button, make } from "./dom.js";
import { Refused, request } from "./http.js";
import { notify } from "./notify.js";
import { settingField, shownInField } from "./setting_field.js";

const ALL = "*";

export class SettingsPanel {
  // `onApplied` is called when the server has taken changes.
  constructor(onApplied) {
    this.onApplied = onApplied;
    this.table = null;
    this.changes = {};
    this.section = null;
  }

  mount(root) {
    this.search = make("input", { type: "search", id: "settings_search", placeholder: "Search settings", "aria-label": "Search settings" });
    this.search.addEventListener("input", () => this.filter());
    this.apply = button("Apply settings", () => this.send(), { id: "settings_submit", class: "button primary" });
    this.state = make("span", { class: "note", role: "status" });
    this.pages = make("nav", { class: "settings-pages", "aria-label": "Pages of settings" });
    this.list = make("div", { class: "settings-list", id: "settings_list" });
    const reload = button("Reload UI", () => window.location.reload(), { id: "settings_restart_gradio" });
    root.append(
      make("div", { class: "tools panel-head" }, this.apply, reload, this.search, this.state),
      make("div", { class: "settings-columns" }, this.pages, this.list)
    );
    if (this.table) this.draw();
    else this.load();
  }

  // Somebody else may have changed something; unsent changes of one's own stay.
  opened() {
    if (this.table) this.load();
  }

  async load() {
    try {
      this.table = await request("api/v1/settings");
      this.labels = Object.fromEntries(this.table.settings.map(({ key, label }) => [key, label]));
      this.draw();
    } catch (error) {
      this.state.textContent = error.message;
    }
  }

  draw() {
    const { sections, settings } = this.table;
    if (!this.section) this.section = sections[0].id;
    const groups = new Map();
    for (const section of sections) {
      if (!groups.has(section.group)) groups.set(section.group, []);
      groups.get(section.group).push(button(section.title, () => this.show(section.id), { class: "page-link", data: { section: section.id } }));
    }
    this.pages.replaceChildren(
      ...[...groups].map(([name, links]) => make("div", { class: "page-group" }, make("h3", {}, name), links)),
      button("Show all pages", () => this.show(ALL), { class: "page-link", data: { section: ALL } })
    );
    this.list.replaceChildren(
      ...sections.map((section) =>
        make(
          "section",
          { class: "settings-section", data: { section: section.id }, "aria-label": section.title },
          make("h2", {}, section.title),
          settings.filter((row) => row.section === section.id).map((row) => this.row(row))
        )
      )
    );
    this.filter();
    this.showState();
  }

  row(row) {
    const id = `setting_${row.key}_value`;
    const value = row.key in this.changes ? this.changes[row.key] : row.value;
    const control = settingField(row, value, { id, labels: this.labels, changed: (changed) => this.change(row, changed) });
    const bounds = row.kind === "bool" || row.choices ? "" : row.allowed;
    const help = [row.locked ? "Only in config.json." : "", bounds, `Default: ${shown(row.default)}`].filter(Boolean).join(" · ");
    return make(
      "div",
      { class: "setting", id: `setting_${row.key}_row`, data: { key: row.key, words: `${row.label} ${row.key}`.toLowerCase() } },
      make("label", { for: id }, row.label),
      control,
      make("p", { class: "setting-help" }, make("code", {}, row.key), ` ${help}`),
      make("p", { class: "setting-problem", role: "alert", hidden: true })
    );
  }

  change(row, value) {
    if (same(value, row.value)) delete this.changes[row.key];
    else this.changes[row.key] = value;
    this.mark(row.key, "");
    this.showState();
  }

  showState() {
    const count = Object.keys(this.changes).length;
    this.state.textContent = count ? `${count} changed, not applied yet` : "";
    this.apply.disabled = !count;
    for (const element of this.list.querySelectorAll(".setting")) {
      element.classList.toggle("changed", element.dataset.key in this.changes);
    }
  }

  show(section) {
    this.section = section;
    this.search.value = "";
    this.filter();
    this.list.scrollIntoView({ block: "nearest" });
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of this.list.children) {
      const inPage = words.length || this.section === ALL || section.dataset.section === this.section;
      let visible = 0;
      for (const row of section.querySelectorAll(".setting")) {
        const text = `${row.dataset.words} ${section.getAttribute("aria-label").toLowerCase()}`;
        row.hidden = !inPage || !words.every((word) => text.includes(word));
        visible += row.hidden ? 0 : 1;
      }
      section.hidden = !visible;
    }
    for (const link of this.pages.querySelectorAll(".page-link")) {
      link.setAttribute("aria-current", String(!words.length && link.dataset.section === this.section));
    }
  }

  async send() {
    const sent = { ...this.changes };
    const before = Object.fromEntries(this.table.settings.filter((row) => row.key in sent).map((row) => [row.key, row.value]));
    for (const row of this.list.querySelectorAll(".bad")) this.mark(row.dataset.key, "");
    try {
      await request("sdapi/v1/options", sent);
    } catch (error) {
      this.refused(error);
      return;
    }
    for (const [key, value] of Object.entries(sent)) if (same(this.changes[key], value)) delete this.changes[key];
    const undo = { label: "Undo", run: () => this.takeBack(before) };
    notify(`Settings changed: ${Object.keys(sent).join(", ")}.`, "info", undo, "settings");
    await this.load();
    this.onApplied();
  }

  // Puts back what stood there before a change was applied.
  async takeBack(before) {
    try {
      await request("sdapi/v1/options", before);
    } catch (error) {
      notify(error.message, "error");
      return;
    }
    notify(`Settings are as before: ${Object.keys(before).join(", ")}.`, "info", null, "settings");
    await this.load();
    this.onApplied();
  }

  // Nothing was changed; the setting that is wrong is named where it stands.
  refused(error) {
    const places = error instanceof Refused && Array.isArray(error.detail) ? error.detail : [];
    const named = places.map(({ loc, msg }) => [loc[loc.length - 1], msg]).filter(([key]) => this.element(key));
    for (const [key, message] of named) this.mark(key, message);
    if (!named.length) notify(error.message, "error");
    else this.reveal(named[0][0]);
  }

  reveal(key) {
    const element = this.element(key);
    if (element.hidden || element.parentElement.hidden) this.show(element.parentElement.dataset.section);
    element.scrollIntoView({ block: "center" });
    element.querySelector("input, select, textarea")?.focus();
  }

  mark(key, message) {
    const element = this.element(key);
    element.classList.toggle("bad", Boolean(message));
    element.querySelector("input, select")?.setAttribute("aria-invalid", String(Boolean(message)));
    const problem = element.querySelector(".setting-problem");
    problem.textContent = message;
    problem.hidden = !message;
  }

  element(key) {
    return document.getElementById(`setting_${key}_row`);
  }
}

function shown(value) {
  if (value === true) return "on";
  if (value === false) return "off";
  return shownInField(value) || "empty";
}

function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}
