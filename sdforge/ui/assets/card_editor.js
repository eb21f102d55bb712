// The dialog of a card: its notes and preview picture, which lie beside the model file, and what the
// file's own header says.

import { button, bytes, make, moment } from "./dom.js";
import { address, request, upload } from "./http.js";
import { notify } from "./notify.js";
import { tagBox, tagsOf } from "./training_tags.js";

const FIELDS = {
  description: { label: "Description", kinds: ["checkpoint", "lora", "embedding", "hypernetwork"], rows: 2 },
  sd_version: { label: "Stable Diffusion version", kinds: ["lora"], choices: ["", "SD1", "SD2", "SDXL", "SD3", "Flux", "Unknown"] },
  activation_text: { label: "Activation text", kinds: ["lora", "hypernetwork"], rows: 2, help: "Put into the prompt with the card." },
  negative_text: { label: "Negative prompt", kinds: ["lora"], rows: 2, help: "Put into the negative prompt with the card." },
  preferred_weight: { label: "Preferred weight", kinds: ["lora", "hypernetwork"], number: true, help: "0 takes the setting's." },
  notes: { label: "Notes", kinds: ["checkpoint", "lora", "embedding", "hypernetwork"], rows: 4 },
};

// `tab` gives the selected picture; `onSaved` gets the changed card, `insert` a text for the prompt.
export function editCard(card, tab, { onSaved, insert }) {
  const base = `api/v1/cards/${card.kind}/${card.name.split("/").map(encodeURIComponent).join("/")}`;
  const rows = Object.entries(FIELDS).filter(([, field]) => field.kinds.includes(card.kind));
  const inputs = Object.fromEntries(rows.map(([name, field]) => [name, input(name, field, card[name], card.fixed)]));
  const problem = make("p", { class: "dialog-problem", role: "alert" });
  const preview = make("div", { class: "card-preview" });
  const showPreview = (address_) => preview.replaceChildren(address_ ? make("img", { src: address(address_), alt: `Preview of ${card.title}` }) : make("p", {}, "No preview picture."));
  showPreview(card.preview);
  const run = async (work) => {
    problem.textContent = "";
    try {
      const changed = await work();
      onSaved(changed);
      return changed;
    } catch (error) {
      problem.textContent = error.message;
      return null;
    }
  };
  const save = async () => {
    const values = Object.fromEntries(rows.map(([name, field]) => [name, field.number ? Number(inputs[name].value) : inputs[name].value]));
    if (await run(() => request(`${base}/notes`, values))) dialog.close();
  };
  const setPreview = async (blob) => {
    const changed = await run(() => upload(`${base}/preview`, blob));
    if (changed) showPreview(changed.preview);
  };
  const file = make("input", { type: "file", accept: "image/*", hidden: true, "aria-label": "File of the preview" });
  file.addEventListener("change", () => file.files[0] && setPreview(file.files[0]));
  const fromGallery = async () => {
    const picture = tab.results.picture();
    if (!picture) notify("There is no selected picture yet.");
    else setPreview(await (await fetch(address(picture.url))).blob());
  };
  const changes = [
    button("Use the selected picture", fromGallery, { class: "button small", id: "card_preview_selected" }),
    button("Choose a file", () => file.click(), { class: "button small" }),
  ];
  const metadata = make("pre", { class: "infotext-raw" });
  const training = make("div");
  if (card.kind === "lora") showTags(base, training, insert);
  const dialog = make(
    "dialog",
    { class: "dialog", id: "card_editor", "aria-label": `Notes of ${card.title}` },
    make("h2", {}, card.title),
    make("p", { class: "note" }, [card.family, bytes(card.size), card.modified ? moment(card.modified) : ""].filter(Boolean).join(" · ")),
    card.page ? make("p", {}, make("a", { href: card.page, target: "_blank", rel: "noopener noreferrer" }, "Page of the model")) : null,
    card.fixed ? make("p", { class: "note" }, "This file ships with the program, so its notes cannot be changed.") : null,
    make("div", { class: "card-editor-columns" },
      make("div", { class: "fields" }, rows.map(([name, field]) => labelled(name, field, inputs[name]))),
      make("div", {}, preview, card.fixed ? null : make("div", { class: "tools" }, changes, file))
    ),
    training,
    make("details", { ontoggle: () => showMetadata(base, metadata) }, make("summary", {}, "Metadata of the file"), metadata),
    problem,
    make("div", { class: "tools dialog-buttons" },
      card.fixed ? null : button("Save", save, { class: "button primary", id: "card_save" }),
      button(card.fixed ? "Close" : "Cancel", () => dialog.close(), { id: "card_cancel" })
    )
  );
  openDialog(dialog);
}

// A dialog that is gone when it closes, and whose Escape interrupts no job.
export function openDialog(dialog) {
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

async function showMetadata(base, place) {
  if (place.textContent) return;
  try {
    const found = await request(`${base}/metadata`);
    place.textContent = Object.keys(found).length ? JSON.stringify(found, null, 2) : "The file says nothing.";
  } catch (error) {
    place.textContent = error.message;
  }
}

// What cannot be read is told where the metadata are opened.
async function showTags(base, place, insert) {
  const found = await request(`${base}/metadata`).catch(() => ({}));
  const tags = tagsOf(found);
  if (tags.length) place.replaceChildren(tagBox(tags, insert));
}

function input(name, field, value, disabled) {
  const common = { id: `card_${name}`, disabled };
  if (field.choices) {
    const known = field.choices.includes(value) ? field.choices : [...field.choices, value];
    return make("select", common, known.map((choice) => make("option", { value: choice, selected: choice === value }, choice || "–")));
  }
  if (field.number) return make("input", { type: "number", min: "0", max: "2", step: "0.01", value: String(value), ...common });
  return make("textarea", { rows: field.rows, value, ...common });
}

function labelled(name, field, element) {
  return make("div", { class: "field" }, make("label", { for: `card_${name}` }, field.label), element, field.help ? make("p", { class: "note" }, field.help) : null);
}
