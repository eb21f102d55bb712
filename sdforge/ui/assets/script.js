// The Script list of a tab and its controls: X/Y/Z plot, prompt matrix, prompts from file.
//
// Values are kept in this browser and go with the form as JSON; the server reads them with the names
// of A1111's script arguments. What the sweep would take is asked for while one types.

import { button, debounced, make } from "./dom.js";
import { request } from "./http.js";
import { notify } from "./notify.js";

const XYZ = "X/Y/Z plot";
const MATRIX = "Prompt matrix";
const LINES = "Prompts from file or textbox";
const AXES = ["x", "y", "z"];
const DRY_RUN_DELAY_MS = 600;
// After this long an answer is taken for lost.
const LOST_MS = 15000;
const SWAPS = [["x", "y"], ["y", "z"], ["x", "z"]];
const CHECKS = {
  draw_legend: "Draw legend",
  no_fixed_seeds: "Keep -1 for seeds",
  vary_seeds_x: "Vary seeds for X",
  vary_seeds_y: "Vary seeds for Y",
  vary_seeds_z: "Vary seeds for Z",
};
const DEFAULTS = {
  [XYZ]: { x_type: "Seed", x_values: "", y_type: "Nothing", y_values: "", z_type: "Nothing", z_values: "", draw_legend: true, margin_size: 0 },
  [MATRIX]: { put_at_start: false, different_seeds: false, prompt_type: "positive", variations_delimiter: "comma", margin_size: 0 },
  [LINES]: { checkbox_iterate: false, checkbox_iterate_batch: false, prompt_position: "start", prompt_txt: "", make_combined: false },
};
const SLUGS = { [XYZ]: "xyz_plot", [MATRIX]: "prompt_matrix", [LINES]: "prompts_from_file_or_textbox" };

export class ScriptBox {
  constructor(tab) {
    this.tab = tab;
    this.key = `sdforge.${tab.name}.script`;
    this.kept = this.read();
    this.axes = null;
    this.askedAt = 0;
    this.isStale = false;
    this.check = debounced(() => this.dryRun(), DRY_RUN_DELAY_MS);
  }

  get title() {
    return this.kept.title;
  }

  get values() {
    return (this.kept.values[this.title] ||= { ...DEFAULTS[this.title] });
  }

  // What goes with the form; "" when no script is chosen.
  text() {
    return this.title ? JSON.stringify({ title: this.title, values: this.values }) : "";
  }

  read() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.key) || "{}");
      return { title: kept.title in DEFAULTS ? kept.title : "", values: kept.values || {} };
    } catch {
      return { title: "", values: {} };
    }
  }

  store() {
    try {
      sessionStorage.setItem(this.key, JSON.stringify(this.kept));
    } catch {
      // Without storage the script is forgotten with the page.
    }
  }

  part(name) {
    return document.getElementById(`${this.tab.name}_${name}`);
  }

  id(name) {
    return `script_${this.tab.name}_${SLUGS[this.title]}_${name}`;
  }

  // Draws into elements that may be new.
  redraw() {
    const list = document.querySelector(`[data-script-list="${this.tab.name}"]`);
    if (!list || list.options.length) return;
    for (const title of ["None", ...Object.keys(DEFAULTS)]) list.append(make("option", { value: title === "None" ? "" : title }, title));
    list.value = this.title;
    list.addEventListener("change", () => this.choose(list.value));
    this.draw();
  }

  choose(title) {
    this.kept.title = title;
    const list = document.querySelector(`[data-script-list="${this.tab.name}"]`);
    if (list) list.value = title;
    this.changed();
    this.draw();
  }

  set(name, value) {
    this.values[name] = value;
    this.changed();
  }

  changed() {
    this.store();
    this.check();
  }

  async draw() {
    const body = this.part("script_body");
    if (!body) return;
    if (this.title === XYZ && !this.axes) {
      body.replaceChildren("Reading the list of axes…");
      try {
        this.axes = await request(`api/v1/sweeps/axes?kind=${this.tab.name}`);
      } catch (error) {
        body.replaceChildren(`The axes could not be read: ${error.message}`);
        return;
      }
    }
    const drawn = { [XYZ]: () => this.drawXyz(), [MATRIX]: () => this.drawMatrix(), [LINES]: () => this.drawLines() };
    body.replaceChildren(...(drawn[this.title]?.() || []));
    this.check();
  }

  // --- X/Y/Z plot ---

  drawXyz() {
    const swaps = SWAPS.map(([one, other]) =>
      button(`Swap ${one.toUpperCase()}/${other.toUpperCase()}`, () => this.swap(one, other), {
        class: "button small",
        id: this.ownId(`${one}${other}_grid_swap_axes_button`),
      })
    );
    const checks = Object.entries(CHECKS).map(([name, label]) => this.checkbox(name, label));
    return [
      ...AXES.map((axis) => this.axisRow(axis)),
      make("div", { class: "script-checks" }, ...checks, this.margin()),
      make("div", { class: "script-swaps" }, ...swaps),
    ];
  }

  // A1111 gives both tabs' buttons one id; here an id is there once.
  ownId(name) {
    return this.tab.name === "txt2img" ? name : `${this.tab.name}_${name}`;
  }

  axisRow(axis) {
    const upper = axis.toUpperCase();
    const list = make("select", { id: this.id(`${axis}_type`), "aria-label": `${upper} type` });
    for (const one of this.axes) {
      list.append(make("option", { value: one.label, disabled: Boolean(one.missing), title: one.missing || one.help }, one.label));
    }
    list.value = this.values[`${axis}_type`];
    const chosen = this.axes.find((one) => one.label === list.value);
    list.addEventListener("change", () => {
      this.values[`${axis}_type`] = list.value;
      this.values[`${axis}_values`] = "";
      this.changed();
      this.draw();
    });
    const values = make("input", {
      id: this.id(`${axis}_values`),
      type: "text",
      value: this.values[`${axis}_values`] || "",
      disabled: list.value === "Nothing",
      placeholder: hint(chosen),
      "aria-label": `${upper} values`,
      spellcheck: false,
    });
    values.addEventListener("input", () => this.set(`${axis}_values`, values.value));
    const fill = button("Fill", () => this.fill(axis, chosen), {
      id: this.ownId(`xyz_grid_fill_${axis}_tool_button`),
      class: "button small",
      title: "Take all there are",
      hidden: !chosen?.choices?.length,
    });
    return make(
      "div",
      { class: "axis-row" },
      make("span", { class: "axis-letter" }, upper),
      list,
      make("div", { class: "axis-values" }, values, this.picks(axis, chosen)),
      fill
    );
  }

  // A list to tick values in; the text stays what counts.
  picks(axis, chosen) {
    if (!chosen?.choices?.length) return null;
    const now = new Set(items(this.values[`${axis}_values`]));
    const boxes = chosen.choices.map((name) => {
      const box = make("input", { type: "checkbox", checked: now.has(name) });
      box.addEventListener("change", () => {
        const left = items(this.values[`${axis}_values`]).filter((one) => one !== name);
        this.put(axis, box.checked ? [...left, name] : left);
      });
      return make("label", {}, box, name);
    });
    const { length } = chosen.choices;
    return make("details", { class: "picks" }, make("summary", {}, `choose from ${length}`), make("div", {}, ...boxes));
  }

  put(axis, names) {
    const text = names.map(quoted).join(", ");
    this.set(`${axis}_values`, text);
    const field = document.getElementById(this.id(`${axis}_values`));
    if (field) field.value = text;
  }

  fill(axis, chosen) {
    this.put(axis, chosen.choices);
    this.draw();
  }

  swap(one, other) {
    for (const part of ["type", "values"]) {
      const [first, second] = [`${one}_${part}`, `${other}_${part}`];
      [this.values[first], this.values[second]] = [this.values[second], this.values[first]];
    }
    this.changed();
    this.draw();
  }

  // --- the others ---

  drawMatrix() {
    return [
      make("p", { class: "script-help" }, "Every combination of the parts after the first: a cat|in snow|at night"),
      make(
        "div",
        { class: "script-checks" },
        this.checkbox("put_at_start", "Put variable parts at start of prompt"),
        this.checkbox("different_seeds", "Use different seed for each picture"),
        this.select("prompt_type", "Select prompt", ["positive", "negative"]),
        this.select("variations_delimiter", "Select joining char", ["comma", "space"]),
        this.margin()
      ),
    ];
  }

  drawLines() {
    const text = make("textarea", { id: this.id("prompt_txt"), rows: 5, value: this.values.prompt_txt, "aria-label": "List of prompt inputs" });
    text.placeholder = 'an owl\n--prompt "a fox" --steps 30 --seed 1';
    text.addEventListener("input", () => this.set("prompt_txt", text.value));
    const file = make("input", { id: this.id("file"), type: "file", accept: ".txt,text/plain", "aria-label": "Upload prompt inputs" });
    file.addEventListener("change", async () => {
      if (!file.files.length) return;
      text.value = await file.files[0].text();
      this.set("prompt_txt", text.value);
    });
    return [
      text,
      file,
      make(
        "div",
        { class: "script-checks" },
        this.checkbox("checkbox_iterate", "Iterate seed every line"),
        this.checkbox("checkbox_iterate_batch", "Use same random seed for all lines"),
        this.checkbox("make_combined", "Make a combined image of all"),
        this.select("prompt_position", "Insert prompts at the", ["start", "end"])
      ),
    ];
  }

  checkbox(name, label) {
    const box = make("input", { type: "checkbox", id: this.id(name), checked: Boolean(this.values[name]) });
    box.addEventListener("change", () => this.set(name, box.checked));
    return make("label", {}, box, label);
  }

  select(name, label, options) {
    const list = make("select", { id: this.id(name) }, ...options.map((one) => make("option", { value: one }, one)));
    list.value = this.values[name];
    list.addEventListener("change", () => this.set(name, list.value));
    return make("label", {}, label, list);
  }

  margin() {
    const field = make("input", { type: "number", id: this.id("margin_size"), min: "0", max: "500", step: "2", value: String(this.values.margin_size ?? 0) });
    field.addEventListener("input", () => this.set("margin_size", Number(field.value) || 0));
    return make("label", {}, "Grid margins (px)", field);
  }

  // --- what it would take ---

  dryRun() {
    const line = this.part("dry_run");
    if (!line) return;
    line.hidden = !this.title;
    if (!this.title) return;
    // One at a time: the answer to a long list must not arrive after that to a later, short one.
    this.isStale = Boolean(this.askedAt) && Date.now() - this.askedAt < LOST_MS;
    if (this.isStale) return;
    this.askedAt = Date.now();
    this.tab.form.ask("dry_run");
  }

  // The server's answer: figures, or what is wrong.
  planned({ text, problem, notices, fits }) {
    this.askedAt = 0;
    const line = this.part("dry_run");
    if (!line) return;
    if (this.isStale) {
      this.dryRun();
      return;
    }
    line.textContent = problem || [text, ...(notices || [])].join(". ");
    line.classList.toggle("bad", Boolean(problem) || fits === false);
  }

  began() {
    notify("The sweep has begun; the grid grows as it is drawn.");
  }
}

function hint(axis) {
  if (!axis || axis.label === "Nothing") return "";
  return { int: "1, 5, 10-30 (+5)", float: "0.5, 1-7 [4]", size: "512x512, 512x768", truth: "False, True" }[axis.kind] || axis.help;
}

function quoted(name) {
  return /[,"\s]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name;
}

// Reads a list as the server does: commas part, quotes hold together.
function items(text) {
  return [...(text || "").matchAll(/\s*(?:"((?:[^"]|"")*)"|([^,]*))\s*(?:,|$)/g)]
    .map(([, inQuotes, plain]) => (inQuotes === undefined ? (plain || "").trim() : inQuotes.replaceAll('""', '"')))
    .filter(Boolean);
}
