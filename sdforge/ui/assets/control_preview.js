// What a unit's preprocessor makes of its picture, beside it: at the size that the job will use, made anew when a value
// changes, and gone with the picture.

import { button, make } from "./dom.js";
import { address, request, upload } from "./http.js";
import { notify } from "./notify.js";
import { asDataUrl } from "./pnginfo.js";

const VALUES = ["module", "pixel_perfect", "processor_res", "threshold_a", "threshold_b", "resize_mode"];
const GONE_WITH = ["image", "batch"];
const PAUSE_MS = 350;
// As core/control.py has it.
const DEFAULT_RESOLUTION = 512;

export class ControlPreviews {
  // `shows(number)` puts the preview of a unit on screen, or takes it off; `takes(image)` makes it the unit's picture.
  constructor({ shows, takes, drawn, own }) {
    Object.assign(this, { shows, takes, drawn, own });
    this.made = new Map();
    this.latest = new Map();
  }

  // A unit has other values now.
  changed(number, unit, changes) {
    if (!this.made.has(number)) return;
    if (GONE_WITH.some((name) => name in changes) || unit.module === "none") this.drop(number);
    else if (VALUES.some((name) => name in changes)) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.made.has(number) && this.make(number, unit), PAUSE_MS);
    }
  }

  drop(number) {
    this.made.delete(number);
    this.latest.delete(number);
    this.shows(number);
  }

  clear() {
    this.made.clear();
    this.latest.clear();
  }

  async make(number, unit) {
    const source = unit.image || unit.batch?.[0] || this.own();
    if (!source) {
      notify("The unit has no picture yet.");
      return;
    }
    // A click that comes later counts, whichever answer is first.
    const asked = Symbol(unit.module);
    this.latest.set(number, asked);
    try {
      const blob = await (await fetch(address(`api/v1/inputs/${source.sha256}`))).blob();
      const question = {
        controlnet_module: unit.module,
        controlnet_input_images: [await asDataUrl(blob)],
        controlnet_processor_res: workingResolution(unit, source, this.drawn()),
        controlnet_threshold_a: unit.threshold_a,
        controlnet_threshold_b: unit.threshold_b,
      };
      const { images } = await request("controlnet/detect", question, { timeout: 60000 });
      if (this.latest.get(number) !== asked) return;
      this.made.set(number, { data: images[0], module: unit.module });
      this.shows(number);
    } catch (error) {
      notify(error.message, "error");
    }
  }

  // Returns what is shown of a unit, null for nothing.
  figure(number) {
    const made = this.made.get(number);
    if (!made) return null;
    const size = make("span", {});
    const picture = make("img", { src: `data:image/png;base64,${made.data}`, alt: `What ${made.module} makes of the picture`, onload: () => (size.textContent = `${made.module} · ${picture.naturalWidth} × ${picture.naturalHeight}`) });
    return make("div", { class: "drop-area control-preview" }, picture, make("span", { class: "note" }, size),
      make("div", { class: "tools" },
        button("Use as picture", () => this.use(made), { class: "button small", title: "Make this the unit's picture, with no preprocessor" }),
        button("Close", () => this.drop(number), { class: "button small" })));
  }

  async use(made) {
    try {
      const bytes = Uint8Array.from(atob(made.data), (letter) => letter.charCodeAt(0));
      this.takes(await upload("api/v1/inputs", new Blob([bytes], { type: "image/png" })));
    } catch (error) {
      notify(error.message, "error");
    }
  }
}

// The shorter side that the preprocessor of a job works at, as postprocess/control_picture.py decides it.
export function workingResolution(unit, size, drawn) {
  const factors = [Number(drawn.width) / size.width, Number(drawn.height) / size.height];
  const factor = unit.resize_mode === "Resize and Fill" ? Math.min(...factors) : Math.max(...factors);
  const perfect = Math.max(Math.round(Math.min(size.width, size.height) * factor), 1);
  if (unit.pixel_perfect) return perfect;
  return unit.processor_res > 0 ? unit.processor_res : Math.min(DEFAULT_RESOLUTION, perfect);
}
