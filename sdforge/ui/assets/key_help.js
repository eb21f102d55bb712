// What the keys do, as a list: the footer's "Keys" and ? outside text boxes open it.

import { openDialog } from "./card_editor.js";
import { button, make } from "./dom.js";

const GROUPS = [
  ["Anywhere", [
    ["Ctrl+Enter", "Generate"],
    ["Alt+Enter", "Skip: go on with the next batch"],
    ["Esc", "Interrupt; closes what is open first"],
    ["Ctrl+V", "Take a copied picture"],
    ["?", "Show this list"],
  ]],
  ["In a prompt", [
    ["Ctrl+↑ Ctrl+↓", "Weigh what is selected, or the word at the caret"],
    ["Alt+← Alt+→", "Move the item at the caret past its neighbour"],
    ["Tab Enter", "Take what is offered; Esc closes the list"],
  ]],
  ["On the picture of img2img", [
    ["Shift", "Held while painting: erase, as the right button does"],
    ["[ ]", "Smaller or larger brush; also Ctrl with the wheel"],
    ["Ctrl+Z Ctrl+Y", "Undo, redo"],
    ["Alt+⇕ Shift+⇕", "Zoom by the wheel; over the whole window the wheel alone"],
    ["F ␣", "Held: move the picture; also the middle button"],
    ["R", "Show the whole picture"],
    ["S", "The picture over the whole window"],
  ]],
  ["In the large view of results", [
    ["← →", "Picture before or after"],
    ["+ −", "Zoom, as the wheel does"],
    ["C", "Compare with the pinned picture or the one before"],
    ["S", "Save"],
  ]],
];

export function showKeys() {
  if (document.querySelector("dialog[open]")) return;
  const table = (title, rows) => [
    make("h3", {}, title),
    make("dl", { class: "keys" }, ...rows.flatMap(([keys, what]) => [make("dt", { data: { verbatim: "" } }, ...keys.split(" ").map((key) => make("kbd", {}, key))), make("dd", {}, what)])),
  ];
  const dialog = make("dialog", { class: "dialog", id: "keys_dialog", "aria-label": "Keys" },
    make("h2", {}, "Keys"), ...GROUPS.flatMap((group) => table(...group)),
    make("div", { class: "tools dialog-buttons" }, button("Close", () => dialog.close())));
  openDialog(dialog);
}
