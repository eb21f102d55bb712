// The row of quick settings beside the checkpoint: Forge's preset, VAE and text encoders, low bits and clip skip, then
// those that the setting quicksettings_list names. They are settings of the server; a change counts at once, for
// everybody.

import { make } from "./dom.js";
import { UNDO } from "./form.js";
import { request } from "./http.js";
import { notify } from "./notify.js";
import { settingField } from "./setting_field.js";

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
// Which settings the user wants here beside them; A1111's key and elements' ids.
const OWN = "quicksettings_list";
// What a preset brings into the forms: Forge's values, for later families those that their models were made for. How
// many steps, the checkpoint says.
const FORMS = {
  sd: { txt2img: { width: 512, height: 640 }, img2img: { width: 512, height: 512 }, both: { cfg_scale: 7, sampler: "Euler a", schedule: "Automatic" } },
  xl: { txt2img: { width: 896, height: 1152 }, img2img: { width: 1024, height: 1024 }, both: { cfg_scale: 5, sampler: "DPM++ 2M SDE", schedule: "Karras" } },
  flux: { txt2img: { width: 896, height: 1152 }, img2img: { width: 1024, height: 1024 }, both: { cfg_scale: 1, sampler: "Euler", schedule: "Simple" } },
  flux2: { both: { width: 1024, height: 1024, cfg_scale: 1, sampler: "Euler", schedule: "Simple" } },
  zimage: { both: { width: 1024, height: 1024, cfg_scale: 1, sampler: "Euler", schedule: "Simple" } },
  qwen: { txt2img: { width: 1328, height: 1328 }, img2img: { width: 1024, height: 1024 }, both: { cfg_scale: 2.5, sampler: "Euler", schedule: "Simple" } },
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
      this.rows = Object.fromEntries(settings.map((row) => [row.key, row]));
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
    const keys = [...new Set(["forge_preset", ...extra, ...this.own()])];
    const state = JSON.stringify(keys.map((key) => [key, this.rows[key].value, this.rows[key].choices]));
    // What is being typed or ticked stays; it is drawn anew when it is left.
    if (root.dataset.state === state || root.querySelector(".multichoice[open], input:is([type=number], [type=text]):focus")) return;
    root.dataset.state = state;
    root.replaceChildren(...keys.map((key) => this.field(this.rows[key])));
  }

  // The checkpoint has its place already. A name that is not known may be another program's; one that is locked cannot
  // be changed here.
  own() {
    return this.rows[OWN].value.filter((key) => key !== "sd_model_checkpoint" && this.rows[key] && !this.rows[key].locked);
  }

  field(row) {
    const id = `quick_${row.key}`;
    const label = LABELS[row.key] || row.label;
    const labels = Object.fromEntries(Object.values(this.rows).map((one) => [one.key, one.label]));
    const none = row.key === "forge_additional_modules" ? "Automatic" : "None";
    const control = settingField(row, row.value, { id, labels, none, event: "change", changed: (value) => this.change(row, value) });
    const properties = { class: "quick-field", id: `setting_${row.key}`, data: { key: row.key } };
    if (row.kind === "bool") return make("div", { ...properties, class: "quick-field quick-tick" }, make("label", { for: id, title: label }, control, make("span", {}, label)));
    // A list to tick names itself.
    const words = control.localName === "details" ? make("span", { class: "quick-label", title: label }, label) : make("label", { for: id, title: label }, label);
    return make("div", properties, words, control);
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
    notify(`Sizes, CFG scale and sampler are those of the preset ${name}.`, "info", { label: "Undo", run: undo }, UNDO);
  }
}
