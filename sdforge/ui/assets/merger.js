// Checkpoint Merger: a new checkpoint made of one, two or three, as a job. Element ids are A1111's.

import { button, make } from "./dom.js";
import { request } from "./http.js";
import { notify } from "./notify.js";

const METHODS = {
  "No interpolation": "A is saved anew: in other numbers, with another VAE, or without some of its weights.",
  "Weighted sum": "A × (1 − M) + B × M",
  "Add difference": "A + (B − C) × M",
};
const NEEDED = { "No interpolation": 1, "Weighted sum": 2, "Add difference": 3 };
const MODELS = [
  ["primary_model_name", "modelmerger_primary_model_name", "Primary model (A)", "refresh_checkpoint_A"],
  ["secondary_model_name", "modelmerger_secondary_model_name", "Secondary model (B)", "refresh_checkpoint_B"],
  ["tertiary_model_name", "modelmerger_tertiary_model_name", "Tertiary model (C)", "refresh_checkpoint_C"],
];
const PRECISIONS = { "": "As in the files", fp32: "float32", fp16: "float16", bf16: "bfloat16", fp8: "float8 (e4m3fn)" };
const CONFIGS = ["A, B or C", "B", "C", "Don't"];
const POLL_MS = 700;
const FINISHED = ["done", "failed", "cancelled", "interrupted"];

export class MergerPanel {
  // `onMerged` is called when there is a new checkpoint.
  constructor(onMerged) {
    this.onMerged = onMerged;
    this.values = {
      primary_model_name: "", secondary_model_name: "", tertiary_model_name: "", custom_name: "", multiplier: 0.3,
      interp_method: "Weighted sum", precision: "", config_source: 0, bake_in_vae: "None", discard_weights: "",
      save_metadata: true, add_merge_recipe: true, copy_metadata_fields: true, metadata_json: "{}", overwrite: false,
    };
  }

  mount(root) {
    this.root = root;
    this.description = make("p", { class: "note", id: "modelmerger_interp_description" });
    this.result = make("p", { id: "modelmerger_result", role: "status" });
    this.bar = make("progress", { id: "modelmerger_progress", max: 1, value: 0, hidden: true, "aria-label": "Progress of the merge" });
    this.start = button("Merge", () => this.merge(), { id: "modelmerger_merge", class: "button primary large" });
    this.stop = button("Interrupt", () => this.interrupt(), { id: "modelmerger_interrupt", class: "button large danger", hidden: true });
    const metadata = make("details", { id: "modelmerger_metadata" }, make("summary", {}, "Metadata"),
      this.check("save_metadata", "modelmerger_save_metadata", "Save metadata"),
      this.check("add_merge_recipe", "modelmerger_add_recipe", "Add merge recipe metadata"),
      this.check("copy_metadata_fields", "modelmerger_copy_metadata", "Copy metadata from merged models"),
      this.area("metadata_json", "modelmerger_metadata_json", "Metadata in JSON format"),
      button("Read metadata from selected checkpoints", () => this.readMetadata(), { id: "modelmerger_read_metadata", class: "button small" }));
    root.append(
      this.description,
      make("div", { class: "merger-models", id: "modelmerger_models" }, MODELS.map(([name, id, label, refresh]) => this.model(name, id, label, refresh))),
      this.text("custom_name", "modelmerger_custom_name", "Custom Name (Optional)", "Made of the others' names"),
      make("div", { class: "extras-rows" },
        this.radios("interp_method", "modelmerger_interp_method", "Interpolation Method", Object.keys(METHODS).map((one) => [one, one])),
        this.slider("multiplier", "modelmerger_interp_amount", "Multiplier (M) - set to 0 to get model A")),
      make("div", { class: "extras-rows" },
        this.select("precision", "modelmerger_precision", "Save numbers as", Object.entries(PRECISIONS)),
        this.select("bake_in_vae", "modelmerger_bake_in_vae", "Bake in VAE", [["None", "None"]])),
      make("div", { class: "extras-rows" },
        this.radios("config_source", "modelmerger_config_method", "Copy config from", CONFIGS.map((text, index) => [String(index), text])),
        this.text("discard_weights", "modelmerger_discard_weights", "Discard weights with matching name", "A regular expression")),
      this.check("overwrite", "modelmerger_overwrite", "Replace a file of that name"),
      metadata,
      make("div", { class: "tools merger-end", id: "modelmerger_results_container" }, this.start, this.stop, this.bar, this.result)
    );
    this.draw();
    this.load();
  }

  opened() {
    this.load();
    this.follow();
  }

  closed() {
    clearTimeout(this.timer);
  }

  set(name, value) {
    this.values[name] = value;
    this.draw();
  }

  async load(refresh = false) {
    try {
      if (refresh) await request("sdapi/v1/refresh-checkpoints", {}, { timeout: 60000 });
      const [models, vaes] = await Promise.all([request("api/v1/models"), request("sdapi/v1/sd-vae")]);
      this.titles = models.models.map((row) => row.title);
      this.vaes = ["None", ...vaes.map((row) => row.model_name)];
      for (const [name] of MODELS) {
        const known = this.titles.find((title) => title.split(" [")[0] === this.values[name].split(" [")[0]);
        this.values[name] = known || "";
      }
      this.values.primary_model_name ||= this.titles[0] || "";
      this.draw();
    } catch (error) {
      this.result.textContent = error.message;
    }
  }

  async merge() {
    const lacking = MODELS.slice(0, NEEDED[this.values.interp_method]).find(([name]) => !this.values[name]);
    if (lacking) {
      this.problem(`Choose a checkpoint: ${lacking[2]}`);
      return;
    }
    this.start.disabled = true;
    try {
      const job = await request("api/v1/merge", this.values, { timeout: 120000 });
      this.job = job.id;
      this.show(job);
      this.follow();
    } catch (error) {
      this.problem(error.message);
      this.start.disabled = false;
    }
  }

  problem(text) {
    this.result.textContent = text;
    this.result.dataset.state = "error";
  }

  async interrupt() {
    try {
      await request(`api/v1/jobs/${encodeURIComponent(this.job)}/cancel`, {});
    } catch (error) {
      notify(error.message, "error");
    }
  }

  // Asks again until the job has ended; a tab that is out of sight asks when it comes back.
  async follow() {
    clearTimeout(this.timer);
    if (!this.job) return;
    try {
      const job = await request(`api/v1/jobs/${encodeURIComponent(this.job)}`);
      this.show(job);
      if (FINISHED.includes(job.status)) {
        this.job = null;
        if (job.status === "done") {
          await this.load();
          this.onMerged();
        }
        return;
      }
    } catch {
      // The server may come back.
    }
    this.timer = setTimeout(() => this.follow(), POLL_MS);
  }

  show(job) {
    const isOver = FINISHED.includes(job.status);
    this.start.disabled = !isOver;
    this.stop.hidden = isOver;
    this.bar.hidden = isOver;
    this.bar.value = job.progress.fraction;
    const { notices } = job.progress;
    const words = { queued: "Waiting", cancelled: "Interrupted. Nothing was saved.", interrupted: "The server stopped meanwhile." };
    this.result.dataset.state = job.status === "failed" ? "error" : job.status;
    this.result.textContent = job.error?.message || words[job.status] || (isOver ? notices.join(" ") : `Merging ${Math.round(100 * job.progress.fraction)} %`);
  }

  async readMetadata() {
    const found = {};
    try {
      for (const [name] of MODELS) {
        const title = this.values[name].split(" [")[0];
        if (!title) continue;
        Object.assign(found, await request(`api/v1/cards/checkpoint/${title.split("/").map(encodeURIComponent).join("/")}/metadata`));
      }
      this.set("metadata_json", JSON.stringify(found, null, 2));
    } catch (error) {
      notify(error.message, "error");
    }
  }

  draw() {
    if (!this.root) return;
    const { interp_method: method } = this.values;
    this.description.textContent = METHODS[method];
    const needed = NEEDED[method];
    for (const [index, [name, id]] of MODELS.entries()) {
      fill(this.root.querySelector(`#${id} select`), ["", ...(this.titles || [])], this.values[name]);
      this.root.querySelector(`#${id}`).hidden = index >= needed;
    }
    this.root.querySelector("#modelmerger_interp_amount").hidden = needed === 1;
    fill(this.root.querySelector("#modelmerger_bake_in_vae select"), this.vaes || ["None"], this.values.bake_in_vae);
    for (const input of this.root.querySelectorAll("[data-value]")) {
      const value = this.values[input.dataset.value];
      if (input.type === "checkbox") input.checked = value;
      else if (input.type === "radio") input.checked = input.value === String(value);
      else if (input !== document.activeElement || input.type === "range") input.value = String(value);
    }
  }

  model(name, id, label, refresh) {
    const select = make("select", { data: { value: name }, onchange: () => this.set(name, select.value) });
    return make("div", { class: "extras-field merger-model", id }, make("label", {}, make("span", {}, label), select),
      button("↻", () => this.load(true), { id: refresh, class: "button small", title: "Look for model files again", "aria-label": "Look for model files again" }));
  }

  select(name, id, label, choices) {
    const select = make("select", { data: { value: name }, onchange: () => this.set(name, select.value) }, choices.map(([value, text]) => make("option", { value }, text)));
    return field(id, label, select);
  }

  text(name, id, label, hint) {
    const input = make("input", { type: "text", placeholder: hint, data: { value: name }, oninput: () => this.set(name, input.value) });
    return field(id, label, input);
  }

  area(name, id, label) {
    const input = make("textarea", { rows: 5, data: { value: name }, oninput: () => this.set(name, input.value) });
    return field(id, label, input);
  }

  slider(name, id, label) {
    const options = { min: 0, max: 1, step: 0.05, data: { value: name } };
    const range = make("input", { type: "range", ...options, "aria-label": label });
    const exact = make("input", { type: "number", ...options, step: "any" });
    range.addEventListener("input", () => this.set(name, Number(range.value)));
    exact.addEventListener("change", () => this.set(name, Math.min(Math.max(Number(exact.value) || 0, 0), 1)));
    return field(id, label, exact, range);
  }

  check(name, id, label) {
    const input = make("input", { type: "checkbox", data: { value: name }, onchange: () => this.set(name, input.checked) });
    return make("label", { class: "extras-check", id }, input, label);
  }

  radios(name, id, label, choices) {
    return make("fieldset", { class: "merger-radios", id }, make("legend", {}, label),
      choices.map(([value, text]) => make("label", { class: "extras-check" },
        make("input", { type: "radio", name: id, value, data: { value: name }, onchange: () => this.set(name, typeof this.values[name] === "number" ? Number(value) : value) }), text)));
  }
}

function field(id, label, ...inputs) {
  return make("div", { class: "extras-field", id }, make("label", {}, make("span", {}, label), inputs[0]), ...inputs.slice(1));
}

function fill(select, names, value) {
  const listed = names.join("\n");
  if (select.dataset.names !== listed) {
    select.dataset.names = listed;
    select.replaceChildren(...names.map((name) => make("option", { value: name }, name || "–")));
  }
  select.value = names.includes(value) ? value : names[0];
}
