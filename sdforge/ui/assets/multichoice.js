// Several of a list: closed it says what is chosen, open it is a box of ticks.

import { make } from "./dom.js";

// `changed` is called with the chosen names, in the list's order. What is chosen and not in the list
// (a file that is gone) stays until it is unticked.
export function multichoice({ id, label, choices, chosen, none, changed, disabled = false }) {
  const names = [...choices, ...chosen.filter((name) => !choices.includes(name))];
  const summary = make("summary", { id, "aria-label": label });
  const say = (list) => {
    // Names of files are nothing to translate.
    summary.toggleAttribute("data-verbatim", list.length > 0);
    summary.textContent = list.length ? list.join(", ") : none;
    summary.title = list.join("\n");
  };
  const read = () => names.filter((name, index) => ticks[index].checked);
  const ticks = names.map((name) => {
    const tick = make("input", { type: "checkbox", checked: chosen.includes(name), disabled });
    tick.addEventListener("change", () => {
      say(read());
      changed(read());
    });
    return tick;
  });
  say(chosen);
  const rows = names.map((name, index) => make("label", { data: { verbatim: "" } }, ticks[index], name));
  const body = make("div", { class: "multichoice-body", role: "group", "aria-label": label }, rows.length ? rows : make("p", {}, "There is none: put files into models/VAE or models/text_encoder."));
  const box = make("details", { class: "multichoice" }, summary, body);
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !box.open) return;
    event.stopPropagation();
    close(box);
  });
  box.addEventListener("focusout", ({ relatedTarget }) => relatedTarget && !box.contains(relatedTarget) && (box.open = false));
  return box;
}

function close(box) {
  box.open = false;
  box.querySelector("summary").focus();
}

// A click beside closes what is open.
document.addEventListener("pointerdown", ({ target }) => {
  for (const box of document.querySelectorAll(".multichoice[open]")) if (!box.contains(target)) box.open = false;
});
