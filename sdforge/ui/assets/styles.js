// Styles: 📋 puts the chosen ones into the prompts, 🖌 opens the editor. They are kept by the server in
// A1111's CSV files, for everybody.

import { openDialog } from "./card_editor.js";
import { button, make } from "./dom.js";
import { request } from "./http.js";
import { notify } from "./notify.js";

const PLACE = "{prompt}";

// The rule is prompt/styles.py's.
export function withStyle(prompt, style) {
  if (!style) return prompt;
  if (style.includes(PLACE)) return style.replaceAll(PLACE, () => prompt);
  return [prompt.trim(), style.trim()].filter(Boolean).join(", ");
}

// Headings between files have no texts.
async function list() {
  const rows = await request("sdapi/v1/prompt-styles");
  return rows.filter((row) => row.prompt !== null);
}

function explain(error) {
  notify(error.message, "error");
}

// Puts the styles that the tab has chosen into its prompts, where they can be edited.
export async function applyStyles(tab) {
  const { prompt, negative_prompt: negative, styles } = tab.form.values();
  if (!styles?.length) {
    notify("No style is chosen.");
    return;
  }
  try {
    const known = new Map((await list()).map((row) => [row.name, row]));
    const chosen = styles.map((name) => known.get(name)).filter(Boolean);
    tab.form.set({
      prompt: chosen.reduce((text, style) => withStyle(text, style.prompt), prompt),
      negative_prompt: chosen.reduce((text, style) => withStyle(text, style.negative_prompt), negative),
      styles: [],
    });
  } catch (error) {
    explain(error);
  }
}

export async function editStyles(tab) {
  try {
    new Editor(tab, await list()).open();
  } catch (error) {
    explain(error);
  }
}

class Editor {
  constructor(tab, styles) {
    this.tab = tab;
    this.styles = styles;
    const id = (name) => `${tab.name}_edit_style_${name}`;
    this.name = make("input", { id: id("select"), autocomplete: "off", spellcheck: false });
    this.name.setAttribute("list", id("names"));
    this.names = make("datalist", { id: id("names") });
    this.prompt = make("textarea", { id: id("prompt"), rows: 3 });
    this.negative = make("textarea", { id: id("neg_prompt"), rows: 3 });
    this.problem = make("p", { class: "dialog-problem", role: "alert" });
    this.saveButton = button("Save", () => this.save(), { class: "button primary", id: id("save"), title: "Keep the texts under this name" });
    this.deleteButton = button("Delete", () => this.remove(), { class: "button danger", id: id("delete") });
    this.dialog = make(
      "dialog",
      { class: "dialog", id: `${tab.name}_styles_dialog`, "aria-label": "Styles" },
      make("h2", {}, "Styles"),
      make("div", { class: "fields" },
        field("Name", this.name, "Choose one to change it, or write a new name."),
        field("Prompt", this.prompt, "{prompt} stands where your own text goes; without it the style comes behind it."),
        field("Negative prompt", this.negative)
      ),
      this.names,
      make("div", { class: "tools" },
        button("Copy from the form", () => this.copy(), { class: "button small", id: id("copy"), title: "Take the prompts of the form as the style's texts" }),
        button("Copy to the form", () => this.materialise(), { class: "button small", id: id("materialize"), title: "Put the style's texts into the prompts" })
      ),
      this.problem,
      make("div", { class: "tools dialog-buttons" }, this.deleteButton, this.saveButton, button("Close", () => this.dialog.close(), { id: id("close") }))
    );
    this.name.addEventListener("input", () => this.chosen());
    this.loaded = ["", ""];
  }

  open() {
    openDialog(this.dialog);
    const [first] = this.tab.form.values().styles || [];
    if (first) this.name.value = first;
    this.draw();
    this.chosen();
    this.name.focus();
  }

  draw() {
    this.names.replaceChildren(...this.styles.map(({ name }) => make("option", { value: name })));
  }

  // A name that is known brings its texts, unless others were written meanwhile.
  chosen() {
    const known = this.styles.find((style) => style.name === this.name.value);
    this.deleteButton.disabled = !known;
    this.saveButton.disabled = !this.name.value.trim();
    const isOwn = this.prompt.value !== this.loaded[0] || this.negative.value !== this.loaded[1];
    if (known && !isOwn) this.load(known);
  }

  load({ prompt, negative_prompt: negative }) {
    this.loaded = [prompt, negative];
    [this.prompt.value, this.negative.value] = this.loaded;
  }

  copy() {
    const { prompt, negative_prompt: negative } = this.tab.form.values();
    this.prompt.value = prompt;
    this.negative.value = negative;
  }

  materialise() {
    this.tab.form.set({ prompt: this.prompt.value, negative_prompt: this.negative.value });
    this.dialog.close();
  }

  async save() {
    const name = this.name.value.trim();
    const texts = { prompt: this.prompt.value, negative_prompt: this.negative.value };
    await this.run(() => request("api/v1/styles", { name, ...texts }), "Saved.");
    this.load(texts);
  }

  async remove() {
    const { name, prompt, negative_prompt: negative } = this.styles.find((style) => style.name === this.name.value);
    const undo = { label: "Undo", run: () => this.run(() => request("api/v1/styles", { name, prompt, negative_prompt: negative })) };
    await this.run(() => request(`api/v1/styles/${encodeURIComponent(name)}`, undefined, { method: "DELETE" }), "Deleted.", undo);
  }

  async run(work, said = "", action = null) {
    this.problem.textContent = "";
    try {
      await work();
      this.styles = await list();
      this.draw();
      this.chosen();
      this.tab.stylesChanged();
      if (said) notify(said, "info", action);
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }
}

function field(label, element, help = "") {
  return make("div", { class: "field" }, make("label", { for: element.id }, label), element, help ? make("p", { class: "note" }, help) : null);
}
