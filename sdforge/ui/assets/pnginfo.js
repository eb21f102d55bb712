// PNG Info: what a picture says of how it was made, and from there into a form.

import { button, make } from "./dom.js";
import { request } from "./http.js";
import { notify } from "./notify.js";

export class PngInfo {
  // `tabs` are those with a form, by name.
  constructor(tabs) {
    this.tabs = tabs;
    this.shown = null;
  }

  mount(root) {
    this.file = make("input", { type: "file", accept: "image/*", hidden: true, id: "pnginfo_file", "aria-label": "File of a picture" });
    this.file.addEventListener("change", () => this.file.files[0] && this.take(this.file.files[0]));
    this.picture = make("img", { alt: "", hidden: true });
    this.hint = make("p", {}, "Drop or paste a picture here");
    this.area = make(
      "div",
      { class: "drop-area", id: "pnginfo_image", tabIndex: 0, "aria-label": "Picture: drop or paste one here", data: { panel: "pnginfo" } },
      this.picture,
      make("div", { class: "hint" }, this.hint, button("Choose a picture", () => this.file.click()))
    );
    this.out = make("div", { class: "png-info-text", id: "pnginfo_out" });
    this.send = make("div", { class: "tools", id: "pnginfo_send", hidden: true }, ...this.targets());
    root.append(make("div", { class: "two-columns" }, make("div", {}, this.area, this.file), make("div", {}, this.send, this.out)));
    if (this.shown) this.draw();
  }

  targets() {
    return [
      button("Send to txt2img", () => this.toText(), { id: "pnginfo_send_to_txt2img" }),
      button("Send to img2img", () => this.toPicture("img2img"), { id: "pnginfo_send_to_img2img" }),
      button("Send to inpaint", () => this.toPicture("inpaint"), { id: "pnginfo_send_to_inpaint" }),
      button("Send to extras", () => this.tabs.extras.receive({ url: this.shown.url }), { id: "pnginfo_send_to_extras" }),
      button("Copy text", () => this.copy(), { id: "pnginfo_copy" }),
    ];
  }

  async take(file) {
    try {
      const answer = await request("sdapi/v1/png-info", { image: await asDataUrl(file) });
      if (this.shown) URL.revokeObjectURL(this.shown.url);
      this.shown = { name: file.name, url: URL.createObjectURL(file), ...answer };
      this.draw();
    } catch (error) {
      notify(error.message, "error");
    }
    this.file.value = "";
  }

  draw() {
    const { name, url, info, items, parameters, note } = this.shown;
    this.picture.src = url;
    this.picture.alt = name;
    this.picture.hidden = false;
    this.area.classList.add("filled");
    this.hint.textContent = name;
    this.send.hidden = false;
    const text = info || note || "This picture holds no parameters.";
    this.out.replaceChildren(
      info && note ? make("p", { id: "pnginfo_note" }, note) : "",
      make("pre", { class: "infotext-raw" }, text),
      table("Parameters", info ? parameters : {}),
      table("What else the file says", items)
    );
  }

  toText() {
    this.tabs.txt2img.open();
    if (this.shown.info) this.tabs.txt2img.form.readInfotext(this.shown.info);
    else notify(this.shown.note || `${this.shown.name} holds no parameters.`);
  }

  toPicture(mode) {
    const { url, info } = this.shown;
    const size = { width: this.picture.naturalWidth, height: this.picture.naturalHeight };
    this.tabs.img2img.receive({ url, infotext: info, ...size }, mode);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.shown.info);
      notify("Copied.");
    } catch {
      notify("The browser does not allow copying here; select the text and copy it by hand.", "error");
    }
  }
}

function table(title, values) {
  const rows = Object.entries(values || {});
  if (!rows.length) return "";
  const cells = rows.map(([key, value]) =>
    make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, typeof value === "string" ? value : JSON.stringify(value)))
  );
  return make("details", { open: true }, make("summary", {}, title), make("table", { class: "facts" }, make("tbody", {}, cells)));
}

export function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
