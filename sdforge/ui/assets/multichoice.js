// Several of a list: closed it says what is chosen, open it is a box of ticks.

import { make } from "./dom.js";

// A list longer than this gets a box that narrows it down.
const FILTERED_FROM = 20;

// `changed` is called with the chosen names, in the order in which they were chosen. What is chosen and not in the
// list (a file that is gone) stays until it is unticked. `labels` say by name what a name means.
export function multichoice({ id, label, choices, chosen, none, changed, labels = null, disabled = false }) {
  const names = [...choices, ...chosen.filter((name) => !choices.includes(name))];
  const summary = make("summary", { id, "aria-label": label });
  let now = [...chosen];
  const say = () => {
    // Names of files are nothing to translate.
    summary.toggleAttribute("data-verbatim", now.length > 0);
    summary.textContent = now.length ? now.join(", ") : none;
    summary.title = now.join("\n");
  };
  const row = (name) => {
    const tick = make("input", { type: "checkbox", checked: chosen.includes(name), disabled });
    tick.addEventListener("change", () => {
      now = tick.checked ? [...now, name] : now.filter((one) => one !== name);
      say();
      changed([...now]);
    });
    if (!labels) return make("label", { data: { verbatim: "" } }, tick, name);
    return make("label", { data: { words: `${name} ${labels[name] || ""}`.toLowerCase() } }, tick, make("span", {}, make("span", {}, labels[name] || name), " ", make("code", {}, name)));
  };
  say();
  const rows = names.map(row);
  const filter = rows.length > FILTERED_FROM && labels ? narrowing(rows) : null;
  const body = make("div", { class: "multichoice-body", role: "group", "aria-label": label }, filter, rows.length ? rows : make("p", {}, "There is none: put files into models/VAE or models/text_encoder."));
  const box = make("details", { class: "multichoice" }, summary, body);
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !box.open) return;
    event.stopPropagation();
    close(box);
  });
  box.addEventListener("focusout", ({ relatedTarget }) => relatedTarget && !box.contains(relatedTarget) && (box.open = false));
  return box;
}

// Words are looked for in the names, in what they mean, and in that as the page shows it (it may be translated).
function narrowing(rows) {
  const search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search" });
  search.addEventListener("input", (event) => {
    event.stopPropagation();
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = `${row.dataset.words} ${row.textContent.toLowerCase()}`;
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  return search;
}

function close(box) {
  box.open = false;
  box.querySelector("summary").focus();
}

// A click beside closes what is open.
document.addEventListener("pointerdown", ({ target }) => {
  for (const box of document.querySelectorAll(".multichoice[open]")) if (!box.contains(target)) box.open = false;
});
