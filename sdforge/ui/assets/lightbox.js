// The selected picture over the whole window. ← → change it, the wheel zooms, dragging moves, a
// double click shows it at its own size or whole, C compares, S saves, Esc or a click beside closes.

import { make } from "./dom.js";
import { address } from "./http.js";
import { fileName } from "./results.js";

const ZOOM_STEP = 1.2;
const [LEAST_ZOOM, MOST_ZOOM] = [1, 16];

// The picture that others are compared with, kept while the page is open: {url, name}.
let pinned = null;

export function pin(picture) {
  pinned = { url: picture.url, name: `seed ${picture.seed}` };
}

export function openLightbox(results) {
  if (results.picture()) new Lightbox(results).open();
}

class Lightbox {
  constructor(results) {
    this.results = results;
    this.picture = make("img", { draggable: false });
    this.other = make("img", { class: "other", alt: "", draggable: false, hidden: true });
    this.view = make("div", { class: "view" }, this.picture, this.other);
    this.slider = make("input", { type: "range", class: "split", min: "0", max: "100", value: "50", "aria-label": "How much of either picture is shown", hidden: true });
    this.slider.addEventListener("input", () => this.drawSplit());
    this.words = make("div", { class: "split-words", hidden: true });
    this.dialog = make("dialog", { id: "lightboxModal", "aria-label": "Large picture" }, this.view, this.words, this.slider, ...this.buttons());
    this.reset();
  }

  buttons() {
    const list = [button("×", "Close", "close", () => this.dialog.close()), button("⤢", "Whole picture or its own size", "zoom", () => this.toggleZoom())];
    if (this.results.images().length > 1) {
      list.push(button("‹", "Previous picture", "previous", () => this.move(-1)), button("›", "Next picture", "next", () => this.move(1)));
    }
    this.compareButton = button("◧", "Compare with the pinned picture, or with the one before", "compare", () => this.compare());
    return [...list, this.compareButton, button("⚲", "Pin this picture for comparing", "pin", () => this.pinThis())];
  }

  open() {
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("close", () => this.dialog.remove());
    this.view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.view.addEventListener("pointerdown", (event) => this.grab(event));
    this.view.addEventListener("dblclick", () => this.toggleZoom());
    this.draw();
    document.body.append(this.dialog);
    this.dialog.showModal();
  }

  draw() {
    const shown = this.results.picture();
    this.picture.src = address(shown.url);
    this.picture.alt = shown.infotext.split("\n")[0];
    this.reference = this.findReference(shown);
    this.compareButton.disabled = !this.reference;
    if (!this.reference) this.isComparing = false;
    this.drawSplit();
  }

  // The pinned picture; without one, the picture before this one.
  findReference(shown) {
    if (pinned && pinned.url !== shown.url) return pinned;
    const images = this.results.images();
    const before = images[(this.results.selected - 1 + images.length) % images.length];
    return before && before.url !== shown.url ? { url: before.url, name: `seed ${before.seed}` } : null;
  }

  move(by) {
    this.results.move(by);
    this.draw();
  }

  pinThis() {
    pin(this.results.picture());
    this.draw();
  }

  compare() {
    this.isComparing = !this.isComparing && Boolean(this.reference);
    this.drawSplit();
    if (this.isComparing) this.slider.focus();
  }

  // The reference on the left of the split, this picture on the right.
  drawSplit() {
    const isOn = Boolean(this.isComparing);
    this.other.hidden = this.slider.hidden = this.words.hidden = !isOn;
    this.compareButton.setAttribute("aria-pressed", String(isOn));
    if (!isOn) return;
    const source = address(this.reference.url);
    if (this.other.src !== source) this.other.src = source;
    this.other.style.clipPath = `inset(0 ${100 - Number(this.slider.value)}% 0 0)`;
    this.words.replaceChildren(make("span", {}, this.reference.name), make("span", {}, `seed ${this.results.seed()}`));
  }

  reset() {
    Object.assign(this, { zoom: 1, left: 0, top: 0 });
    this.place();
  }

  place() {
    this.view.style.transform = `translate(${this.left}px, ${this.top}px) scale(${this.zoom})`;
    this.view.classList.toggle("zoomed", this.zoom > 1);
  }

  // Zooms so that what is under the pointer stays there; x and y count from the middle.
  zoomTo(zoom, x = 0, y = 0) {
    const next = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom));
    if (next === LEAST_ZOOM) {
      this.reset();
      return;
    }
    this.left = x - ((x - this.left) * next) / this.zoom;
    this.top = y - ((y - this.top) * next) / this.zoom;
    this.zoom = next;
    this.place();
  }

  wheel(event) {
    event.preventDefault();
    const [x, y] = [event.clientX - window.innerWidth / 2, event.clientY - window.innerHeight / 2];
    this.zoomTo(this.zoom * (event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP), x, y);
  }

  // Its own size is one pixel of the picture on one of the screen, or twice as large where it fits.
  toggleZoom() {
    if (this.zoom > 1) {
      this.reset();
      return;
    }
    const { naturalWidth: wide, naturalHeight: high } = this.picture;
    const whole = Math.min(window.innerWidth / wide, window.innerHeight / high);
    this.zoomTo(Math.max(1 / whole, 2));
  }

  grab(event) {
    const [x, y, left, top] = [event.clientX, event.clientY, this.left, this.top];
    let moved = false;
    const drag = (now) => {
      moved = moved || Math.hypot(now.clientX - x, now.clientY - y) > 4;
      if (this.zoom === 1) return;
      Object.assign(this, { left: left + now.clientX - x, top: top + now.clientY - y });
      this.place();
    };
    const drop = (now) => {
      window.removeEventListener("pointermove", drag);
      window.removeEventListener("pointerup", drop);
      if (!moved && this.zoom === 1 && !this.isComparing && !insidePicture(this.picture, now)) this.dialog.close();
    };
    window.addEventListener("pointermove", drag);
    window.addEventListener("pointerup", drop);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.target !== this.slider) {
      event.preventDefault();
      event.stopPropagation();
      this.move(by);
    } else if (event.key === "s") save(this.results.picture());
    else if (event.key === "c") this.compare();
    else if (["+", "=", "-"].includes(event.key)) this.zoomTo(this.zoom * (event.key === "-" ? 1 / ZOOM_STEP : ZOOM_STEP));
    // The key is used up: it must not interrupt the job too.
    else if (event.key === "Escape") event.stopPropagation();
  }
}

// Whether a pointer is over the drawn part of a picture that keeps its proportions in its box.
function insidePicture(picture, { clientX, clientY }) {
  const box = picture.getBoundingClientRect();
  const scale = Math.min(box.width / picture.naturalWidth, box.height / picture.naturalHeight);
  const across = Math.abs(clientX - box.left - box.width / 2) <= (picture.naturalWidth * scale) / 2;
  return across && Math.abs(clientY - box.top - box.height / 2) <= (picture.naturalHeight * scale) / 2;
}

function save(picture) {
  const link = document.createElement("a");
  link.href = address(picture.url);
  link.download = fileName(picture);
  link.click();
}

function button(text, label, name, run) {
  return make("button", { type: "button", class: name, title: label, "aria-label": label, onclick: run }, text);
}
