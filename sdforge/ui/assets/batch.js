// The files of an img2img batch that are chosen in the browser; they are sent when a job is.

import { Refused, upload } from "./http.js";
import { notify } from "./notify.js";

const NAMES_SHOWN = 5;

export class BatchBox {
  constructor(tab) {
    this.tab = tab;
    this.files = [];
  }

  input() {
    return document.getElementById(`${this.tab.name}_batch_upload`);
  }

  choose() {
    this.input()?.click();
  }

  // The names of the stored pictures, with those of their files.
  async stored() {
    const sent = [];
    // Those of a folder are on the server already.
    if (this.tab.form.values().batch_source !== "upload") return sent;
    for (const [number, file] of this.files.entries()) {
      this.tab.results.showText(`Sending ${number + 1} of ${this.files.length}`);
      try {
        sent.push({ ...(await upload("api/v1/inputs", file)), name: file.name });
      } catch (error) {
        // The others shall be drawn.
        if (!(error instanceof Refused)) throw error;
        notify(`${file.name}: ${error.message}`, "warning");
      }
    }
    return sent;
  }

  // Gradio made the elements anew.
  redraw() {
    const input = this.input();
    if (!input) return;
    input.onchange = () => {
      if (input.files.length) this.files = [...input.files];
      input.value = "";
      this.draw();
    };
    this.draw();
  }

  draw() {
    const box = document.getElementById(`${this.tab.name}_batch_names`);
    if (!box) return;
    const names = this.files.map((file) => file.name);
    const more = names.length > NAMES_SHOWN ? ` and ${names.length - NAMES_SHOWN} more` : "";
    box.textContent = names.length ? `${names.length} chosen: ${names.slice(0, NAMES_SHOWN).join(", ")}${more}` : "None chosen yet.";
  }
}
