// The row of quick settings beside the checkpoint: Forge's preset, VAE and text encoders, low bits and clip skip. They
// are settings of the server; a change counts at once, for everybody.

import { make } from "./dom.js";
import { request } from "./http.js";
import { multichoice } from "./multichoice.js";
import { notify } from "./notify.js";

const LABELS = {
  forge_preset: "UI",
  sd_vae: "VAE",
  forge_additional_modules: "VAE / Text Encoder",
  forge_unet_storage_dtype: "Diffusion in Low Bits",
  CLIP_stop_at_last_layers: "Clip skip",
};
// Which of them a preset shows, as in Forge.
const SHOWN = {
  sd: ["sd_vae", "CLIP_stop_at_last_layers"],
};
const SHOWN_ELSE = ["forge_additional_modules", "forge_unet_storage_dtype"];
// What a preset brings into the forms; Forge's values.
const FORMS = {
  sd: { txt2img: { width: 512, height: 640 }, img2img: { width: 512, height: 512 }, both: { cfg_scale: 7, sampler: "Euler a", schedule: "Automatic" } },
  xl: { txt2img: { width: 896, height: 1152 }, img2img: { width: 1024, height: 1024 }, both: { cfg_scale: 5, sampler: "DPM++ 2M SDE", schedule: "Karras" } },
  flux: { txt2img: { width: 896, height: 1152 }, img2img: { width: 1024, height: 1024 }, both: { cfg_scale: 1, sampler: "Euler", schedule: "Simple" } },
};

export class QuickSettings {
  // `tabs` are those with a form, by name; `onChanged` is called when the server took a change.
  constructor(tabs, onChanged) {
    this.tabs = tabs;
    this.onChanged = onChanged;
    this.rows = null;
    this.asked = 0;
    document.addEventListener("focusout", ({ target }) => target.closest?.("#quick_settings") && setTimeout(() => this.draw()));
  }

  // Called when the page's facts are new: somebody may have changed a setting.
  async load() {
    const asked = ++this.asked;
    try {
      const { settings } = await request("api/v1/settings");
      // Answers may come out of order.
      if (asked !== this.asked) return;
      this.rows = Object.fromEntries(settings.filter((row) => row.key in LABELS).map((row) => [row.key, row]));
      this.draw();
    } catch {
      // The banner says that the server is away; its return brings the facts again.
    }
  }

  draw() {
    const root = document.getElementById("quick_settings");
    if (!root || !this.rows) return;
    const preset = this.rows.forge_preset.value;
    const extra = preset === "all" ? Object.keys(LABELS).slice(1) : SHOWN[preset] || SHOWN_ELSE;
    const keys = ["forge_preset", ...extra];
    const state = JSON.stringify(keys.map((key) => [key, this.rows[key].value, this.rows[key].choices]));
    // What is being typed or ticked stays; it is drawn anew when it is left.
    if (root.dataset.state === state || root.querySelector(".multichoice[open], input[type=number]:focus")) return;
    root.dataset.state = state;
    root.replaceChildren(...keys.map((key) => this.field(this.rows[key])));
  }

  field(row) {
    const id = `quick_${row.key}`;
    if (row.kind === "tuple") return this.several(row, id);
    const control = row.choices ? choice(row, id) : make("input", { type: "number", id, min: row.minimum, max: row.maximum, value: row.value });
    control.addEventListener("change", () => this.change(row, row.kind === "int" ? Number(control.value) : control.value));
    return make("div", { class: "quick-field", id: `setting_${row.key}` }, make("label", { for: id }, LABELS[row.key]), control);
  }

  several(row, id) {
    const label = LABELS[row.key];
    const changed = (value) => this.change(row, value);
    const box = multichoice({ id, label, choices: row.choices || [], chosen: row.value, none: "Automatic", changed });
    return make("div", { class: "quick-field", id: `setting_${row.key}` }, make("span", { class: "quick-label" }, label), box);
  }

  async change(row, value) {
    try {
      await request("sdapi/v1/options", { [row.key]: value });
      if (row.key === "forge_preset") this.applyPreset(value);
    } catch (error) {
      notify(error.message, "error");
    }
    // A list that is open stays open: more may be ticked.
    if (!document.querySelector("#quick_settings .multichoice[open]")) document.getElementById("quick_settings").dataset.state = "";
    await this.load();
    this.onChanged();
  }

  applyPreset(name) {
    const preset = FORMS[name];
    if (!preset) return;
    const before = {};
    for (const [tab, { form }] of Object.entries(this.tabs)) {
      if (!form.values) continue;
      const changes = { ...preset.both, ...preset[tab] };
      const values = form.values();
      before[tab] = Object.fromEntries(Object.keys(changes).map((key) => [key, values[key]]));
      form.set(changes);
    }
    const undo = () => Object.entries(before).forEach(([tab, values]) => this.tabs[tab].form.set(values));
    notify(`Sizes, CFG scale and sampler are those of the preset ${name}.`, "info", { label: "Undo", run: undo });
  }
}

function choice(row, id) {
  const known = row.choices.includes(row.value) ? row.choices : [row.value, ...row.choices];
  return make("select", { id }, known.map((one) => make("option", { value: one, selected: one === row.value }, one)));
}
