// The selected picture over the whole window. ← → change it, S saves it, Esc or a click closes.

import { address } from "./http.js";
import { fileName } from "./results.js";

export function openLightbox(results) {
  if (!results.picture()) return;
  const dialog = document.createElement("dialog");
  dialog.id = "lightboxModal";
  dialog.setAttribute("aria-label", "Large picture");
  const picture = document.createElement("img");
  const draw = () => {
    const shown = results.picture();
    picture.src = address(shown.url);
    picture.alt = shown.infotext.split("\n")[0];
  };
  const move = (by) => {
    results.move(by);
    draw();
  };
  dialog.append(picture, button("×", "Close", "close", () => dialog.close()));
  if (results.images().length > 1) {
    dialog.append(
      button("‹", "Previous picture", "previous", () => move(-1)),
      button("›", "Next picture", "next", () => move(1))
    );
  }
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      event.preventDefault();
      event.stopPropagation();
      move(by);
    } else if (event.key === "s") {
      save(results.picture());
    } else if (event.key === "Escape") {
      // The key is used up: it must not interrupt the job too.
      event.stopPropagation();
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target === picture) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  draw();
  document.body.append(dialog);
  dialog.showModal();
}

function save(picture) {
  const link = document.createElement("a");
  link.href = address(picture.url);
  link.download = fileName(picture);
  link.click();
}

function button(text, label, name, run) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = name;
  element.textContent = text;
  element.setAttribute("aria-label", label);
  element.addEventListener("click", run);
  return element;
}
