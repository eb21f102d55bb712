// The Extras tab: finished pictures enlarged, one, several or a folder of them.
//
// Pictures go to the engine's store; the job is one of the queue like any other, so a reload finds
// it again. What can be chosen is remembered in this browser.

import { button, make } from "./dom.js";
import { address, isReachable, request, upload } from "./http.js";
import { JobFollower } from "./jobs.js";
import { openLightbox, pin } from "./lightbox.js";
import { clearErrors, notify } from "./notify.js";
import { Results } from "./results.js";
import { openTab } from "./tabs.js";

const STORAGE_KEY = "sdforge.extras.form";
const MODES = [
  ["single", "Single Image", "extras_single_tab"],
  ["batch", "Batch Process", "extras_batch_process_tab"],
  ["folder", "Batch from Directory", "extras_batch_directory_tab"],
];
const DEFAULTS = {
  mode: "single", resize_mode: 0, upscaling_resize: 4, max_side_length: 0, upscaling_resize_w: 512, upscaling_resize_h: 512,
  upscaling_crop: true, upscaler_1: "R-ESRGAN AnimeVideo", upscaler_2: "None", extras_upscaler_2_visibility: 0,
  gfpgan_visibility: 0, codeformer_visibility: 0, codeformer_weight: 0,
  input_dir: "", output_dir: "", show_results: true,
};
const SENT = [
  "resize_mode", "upscaling_resize", "max_side_length", "upscaling_resize_w", "upscaling_resize_h", "upscaling_crop",
  "upscaler_1", "upscaler_2", "extras_upscaler_2_visibility",
  "gfpgan_visibility", "codeformer_visibility", "codeformer_weight",
];

// Follows jobs that are not the answer to a form of Gradio's.
class ExtrasJobs extends JobFollower {
  async submit() {
    if (!isReachable()) {
      notify("The server cannot be reached. Nothing is lost: generate again when it is back.", "error");
      return;
    }
    clearErrors();
    this.results.begin();
    try {
      const job = await request("api/v1/extras", await this.tab.body(), { timeout: 120000 });
      this.tasks.push({ id: job.id, sent: Date.now(), accepted: true });
      this.store();
      if (this.tasks.length === 1) this.follow();
      else notify(`Queued: ${this.tasks.length - 1} after the one that runs.`);
    } catch (error) {
      if (!this.tasks.length) this.results.end();
      notify(error.message, "error");
    }
  }
}

class ExtrasResults extends Results {
  // A folder's results may be too many to look at.
  setJob(job, selected) {
    const hides = job.request?.extras?.folder && !this.showsFolders();
    super.setJob(hides ? { ...job, images: [] } : job, selected);
  }

  // Another tab may show a job here before this one was ever opened; it is drawn again then.
  drawTools() {
    if (this.part("open")) super.drawTools();
  }
}

export class ExtrasTab {
  // `others` are the tabs that pictures are sent to, by name.
  constructor(others) {
    this.name = "extras";
    this.others = others;
    this.values = { ...DEFAULTS, ...remembered() };
    this.picture = null;
    this.files = [];
    this.results = new ExtrasResults("extras");
    this.results.showsFolders = () => this.values.show_results;
    this.fit = { again() {}, soon() {} };
    this.form = { set() {}, readInfotext() {} };
    this.pictures = { takeFile: (target, file) => this.take(file, file.name), key: () => false };
    this.jobs = new ExtrasJobs(this);
  }

  isShown() {
    return Boolean(document.getElementById("extras_generate")?.offsetParent);
  }

  open() {
    openTab("extras");
  }

  click(id) {
    const { jobs, results } = this;
    const action = {
      extras_interrupt: () => jobs.cancel(),
      extras_skip: () => jobs.skip(),
      extras_enlarge: () => openLightbox(results),
      extras_pin: () => pin(results.picture()),
      extras_pin: () => this.pinPicture(),
      save_zip_extras: () => results.saveZip(),
      extras_copy_info: () => results.copyInfotext(),
      extras_send_to_extras: () => this.receive(results.picture()),
      extras_send_to_img2img: () => this.others.img2img.receive(results.picture(), "img2img"),
      extras_send_to_inpaint: () => this.others.img2img.receive(results.picture(), "inpaint"),
    }[id];
    if (!action) return false;
    action();
    return true;
  }

  pinPicture() {
    pin(this.results.picture());
    notify("Pinned: ◧ in the large view compares others with it.");
  }

  showProblem(problem) {
    notify(problem.message, "error");
  }

  // Takes a result of any tab.
  async receive(picture) {
    if (!picture) return;
    this.open();
    this.change({ mode: "single" });
    try {
      await this.take(await (await fetch(address(picture.url))).blob(), "");
    } catch (error) {
      notify(error.message, "error");
    }
  }

  // --- what is sent -----------------------------------------------------------------------------

  async take(file, name) {
    try {
      const stored = await upload("api/v1/inputs", file);
      if (this.picture) URL.revokeObjectURL(this.picture.source);
      this.picture = { ...stored, name, source: URL.createObjectURL(file) };
      this.drawPicture();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  async body() {
    const body = Object.fromEntries(SENT.map((name) => [name, this.values[name]]));
    if (this.values.mode === "folder") {
      const { input_dir, output_dir } = this.values;
      if (!input_dir.trim()) throw new Error("Input directory: name a folder on the server.");
      return { ...body, input_dir, output_dir: output_dir.trim() || "outputs/extras-images" };
    }
    if (this.values.mode === "single") {
      if (!this.picture) throw new Error("Choose a picture, drop one, or send one of the results here.");
      return { ...body, images: [stored(this.picture)] };
    }
    if (!this.files.length) throw new Error("Choose the pictures of the batch.");
    const images = [];
    for (const [number, file] of this.files.entries()) {
      this.results.showText(`Sending ${number + 1} of ${this.files.length}`);
      images.push(stored({ ...(await upload("api/v1/inputs", file)), name: file.name }));
    }
    return { ...body, images };
  }

  // --- the form ---------------------------------------------------------------------------------

  change(values) {
    Object.assign(this.values, values);
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.values));
    } catch {
      // Without storage the next visit begins with the defaults.
    }
    this.draw();
  }

  mount(root) {
    this.root = root;
    root.append(
      make("div", { class: "segments-bar", id: "mode_extras", role: "group", "aria-label": "What to enlarge" },
        MODES.map(([mode, label, id]) => button(label, () => this.change({ mode }), { id, data: { mode } }))),
      this.singleBox(), this.batchBox(), this.folderBox(), this.sizeBox(), this.upscalerBox(), this.faceBox(), actions(() => this.jobs.submit())
    );
    this.draw();
    this.drawPicture();
    this.drawFiles();
    this.loadUpscalers();
    this.begin();
  }

  // The results lie beside this panel and may be made after it.
  begin() {
    const note = document.querySelector("#extras_empty .small");
    if (!note) {
      requestAnimationFrame(() => this.begin());
      return;
    }
    note.textContent = "Choose what to enlarge, then press Generate.";
    this.results.redraw();
    if (!this.isResumed) this.jobs.resume();
    this.isResumed = true;
  }

  opened() {
    this.loadUpscalers();
  }

  singleBox() {
    this.file = fileInput("extras_file", "File of a picture", false, ([file]) => this.take(file, file.name));
    this.image = make("img", { alt: "", hidden: true });
    this.imageSize = make("p", { class: "note" }, "Drop or paste a picture here");
    return make("div", { class: "extras-box", data: { for: "single" } }, this.file,
      make("div", { class: "drop-area", id: "extras_image", tabIndex: 0, "aria-label": "Picture: drop or paste one here" },
        this.image, make("div", { class: "hint" }, this.imageSize, button("Choose a picture", () => this.file.click(), { id: "extras_choose" }))));
  }

  batchBox() {
    this.batchFile = fileInput("extras_image_batch", "Pictures of the batch", true, (files) => {
      this.files = [...files];
      this.drawFiles();
    });
    this.batchNames = make("p", { class: "note", id: "extras_batch_names" });
    return make("div", { class: "extras-box", data: { for: "batch" } }, this.batchFile,
      button("Choose pictures", () => this.batchFile.click(), { id: "extras_choose_batch" }), this.batchNames);
  }

  folderBox() {
    return make("div", { class: "extras-box", data: { for: "folder" } },
      this.text("input_dir", "extras_batch_input_dir", "Input directory", "A folder on the server, below outputs or one that --gradio-allowed-path names"),
      this.text("output_dir", "extras_batch_output_dir", "Output directory", "Empty: the folder of extras"),
      this.check("show_results", "extras_show_extras_results", "Show result images"));
  }

  sizeBox() {
    const way = (mode, label, id) => button(label, () => this.change({ resize_mode: mode }), { id, data: { resize: String(mode) } });
    const swap = () => this.change({ upscaling_resize_w: this.values.upscaling_resize_h, upscaling_resize_h: this.values.upscaling_resize_w });
    return make("div", { class: "extras-group" },
      make("div", { class: "segments-bar", role: "group", "aria-label": "How the size is given" },
        way(0, "Scale by", "extras_scale_by_tab"), way(1, "Scale to", "extras_scale_to_tab")),
      make("div", { class: "extras-rows", data: { forResize: "0" } },
        this.slider("upscaling_resize", "extras_upscaling_resize", "Resize", 1, 8, 0.05),
        this.number("max_side_length", "max_side_length", "Max side length", 0, 65536)),
      make("div", { class: "extras-size", data: { forResize: "1" } },
        this.number("upscaling_resize_w", "extras_upscaling_resize_w", "Width", 1, 65536),
        button("⇅", swap, { id: "upscaling_res_switch_btn", title: "Swap width and height" }),
        this.number("upscaling_resize_h", "extras_upscaling_resize_h", "Height", 1, 65536),
        this.check("upscaling_crop", "extras_upscaling_crop", "Crop to fit")));
  }

  upscalerBox() {
    return make("div", { class: "extras-group" },
      this.select("upscaler_1", "extras_upscaler_1", "Upscaler 1"),
      make("div", { class: "extras-rows" },
        this.select("upscaler_2", "extras_upscaler_2", "Upscaler 2"),
        this.slider("extras_upscaler_2_visibility", "extras_upscaler_2_visibility", "Upscaler 2 visibility", 0, 1, 0.001)));
  }

  faceBox() {
    return make("div", { class: "extras-group" },
      make("div", { class: "extras-rows" },
        this.slider("gfpgan_visibility", "extras_gfpgan_visibility", "GFPGAN visibility", 0, 1, 0.001),
        this.slider("codeformer_visibility", "extras_codeformer_visibility", "CodeFormer visibility", 0, 1, 0.001),
        this.slider("codeformer_weight", "extras_codeformer_weight", "CodeFormer weight (0 restores most)", 0, 1, 0.001)));
  }

  text(name, id, label, hint) {
    const input = make("input", { type: "text", placeholder: hint, data: { value: name }, oninput: () => this.change({ [name]: input.value }) });
    return field(id, label, input);
  }

  number(name, id, label, minimum, maximum) {
    const input = make("input", { type: "number", min: minimum, max: maximum, step: 1, data: { value: name } });
    input.addEventListener("change", () => this.change({ [name]: within(input, minimum, maximum) }));
    return field(id, label, input);
  }

  slider(name, id, label, minimum, maximum, step) {
    const options = { min: minimum, max: maximum, step, data: { value: name } };
    const range = make("input", { type: "range", ...options, "aria-label": label });
    const exact = make("input", { type: "number", ...options });
    range.addEventListener("input", () => this.change({ [name]: Number(range.value) }));
    exact.addEventListener("change", () => this.change({ [name]: within(exact, minimum, maximum) }));
    return field(id, label, exact, range);
  }

  check(name, id, label) {
    const input = make("input", { type: "checkbox", data: { value: name }, onchange: () => this.change({ [name]: input.checked }) });
    return make("label", { class: "extras-check", id }, input, label);
  }

  select(name, id, label) {
    const input = make("select", { data: { value: name }, onchange: () => this.change({ [name]: input.value }) });
    return field(id, label, input);
  }

  async loadUpscalers() {
    try {
      const rows = await request("sdapi/v1/upscalers");
      this.upscalers = rows.map((row) => row.name);
    } catch {
      // The lists are filled when the tab is opened again.
      return;
    }
    for (const name of ["upscaler_1", "upscaler_2"]) {
      if (!this.upscalers.includes(this.values[name])) this.values[name] = "None";
    }
    this.draw();
  }

  draw() {
    if (!this.root) return;
    for (const part of this.root.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== this.values.mode;
    for (const part of this.root.querySelectorAll("[data-for-resize]")) part.hidden = part.dataset.forResize !== String(this.values.resize_mode);
    for (const part of this.root.querySelectorAll("[data-mode]")) press(part, part.dataset.mode === this.values.mode);
    for (const part of this.root.querySelectorAll("[data-resize]")) press(part, part.dataset.resize === String(this.values.resize_mode));
    for (const input of this.root.querySelectorAll("[data-value]")) {
      const value = this.values[input.dataset.value];
      if (input.tagName === "SELECT") fill(input, this.upscalers || [value]);
      if (input.type === "checkbox") input.checked = value;
      else if (input !== document.activeElement || input.type !== "text") input.value = String(value);
    }
  }

  drawPicture() {
    if (!this.picture || !this.image) return;
    this.image.src = this.picture.source;
    this.image.alt = this.picture.name || "Picture to enlarge";
    this.image.hidden = false;
    this.imageSize.textContent = `${this.picture.width}×${this.picture.height}`;
    document.getElementById("extras_image")?.classList.add("filled");
  }

  drawFiles() {
    if (!this.batchNames) return;
    const names = this.files.map((file) => file.name);
    const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
    this.batchNames.textContent = names.length ? `${names.length} chosen: ${names.slice(0, 5).join(", ")}${more}` : "None chosen yet.";
  }
}

function actions(generate) {
  return make("div", { class: "generate-box", id: "extras_generate_box" },
    button("Generate", generate, { id: "extras_generate", class: "button primary large", title: "Ctrl+Enter" }),
    make("div", { class: "running-buttons", id: "extras_running", hidden: true },
      make("button", { type: "button", id: "extras_interrupt", class: "button large danger", title: "Stop this job and keep what is there (Esc)" }, "Interrupt"),
      make("button", { type: "button", id: "extras_skip", class: "button large", title: "Go on with the next picture (Alt+Enter)" }, "Skip")));
}

function field(id, label, ...inputs) {
  return make("div", { class: "extras-field", id }, make("label", {}, make("span", {}, label), inputs[0]), ...inputs.slice(1));
}

function fileInput(id, label, multiple, take) {
  const input = make("input", { type: "file", accept: "image/*", multiple, hidden: true, id, "aria-label": label });
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = "";
  });
  return input;
}

function stored({ sha256, width, height, name }) {
  return { sha256, width, height, name: name || "" };
}

function within(input, minimum, maximum) {
  const value = Number(input.value);
  return Number.isFinite(value) && input.value !== "" ? Math.min(Math.max(value, minimum), maximum) : minimum;
}

function press(element, isPressed) {
  element.setAttribute("aria-pressed", String(isPressed));
}

function fill(select, names) {
  if (select.dataset.names === names.join("\n")) return;
  select.dataset.names = names.join("\n");
  select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
}

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORAGE_KEY) || "{}") || {};
    return Object.fromEntries(Object.entries(kept).filter(([name, value]) => typeof value === typeof DEFAULTS[name]));
  } catch {
    return {};
  }
}
