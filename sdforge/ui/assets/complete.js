// What is being typed into a prompt may go on as one of a list: LoRA after "<", wildcards after
// "__", else embeddings and the words of the user's tag files. Tab or Enter takes, Escape closes.

import { make, replaceText } from "./dom.js";
import { isReachable, request } from "./http.js";

const REST_MS = 120;
const LEAST_LETTERS = 2;
const KINDS = { lora: "Lora", embedding: "Embedding", tag: "", wildcard: "Wildcard" };
// Where a word begins: after what separates words in a prompt.
const BEFORE = /[,(){}[\]|:\n]/;

export function listenToTyping() {
  const list = new Completions();
  document.addEventListener("input", (event) => {
    if (event.isTrusted && isPrompt(event.target)) list.typed(event.target);
  });
  // Before all other keys of the page: Escape and Enter are used up while the list is open.
  document.addEventListener("keydown", (event) => list.key(event), { capture: true });
  document.addEventListener("focusout", () => list.close());
}

function isPrompt(target) {
  return target.tagName === "TEXTAREA" && Boolean(target.closest(".prompt"));
}

// Returns where the word at the caret begins; null where there is none worth completing.
export function wordStart(text, caret) {
  const lora = /<[^<>\n]*$/.exec(text.slice(0, caret));
  if (lora) return lora.index;
  let start = caret;
  while (start > 0 && !BEFORE.test(text[start - 1])) start -= 1;
  const word = text.slice(start, caret);
  start += word.length - word.trimStart().length;
  const wildcard = /(?:^|\s)__[\w/*-]*$/.exec(text.slice(start, caret));
  if (wildcard) return start + wildcard.index + (wildcard[0].length - wildcard[0].trimStart().length);
  return caret - start >= LEAST_LETTERS && caret - start <= 60 ? start : null;
}

class Completions {
  constructor() {
    this.rows = [];
    this.chosen = 0;
    this.number = 0;
  }

  typed(box) {
    if (this.isTaking) return;
    this.close();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(box), REST_MS);
  }

  async ask(box) {
    const start = wordStart(box.value, box.selectionStart);
    if (start === null || !isReachable() || document.activeElement !== box) return;
    const typed = box.value.slice(start, box.selectionStart);
    const number = ++this.number;
    try {
      const rows = await request(`api/v1/completions?text=${encodeURIComponent(typed)}`);
      // Meanwhile more was typed, or the box was left.
      if (number !== this.number || document.activeElement !== box || box.value.slice(start, box.selectionStart) !== typed) return;
      this.open(box, start, rows.filter((row) => row.insert !== typed));
    } catch {
      // Without an answer there is nothing to offer.
    }
  }

  open(box, start, rows) {
    if (!rows.length) return;
    Object.assign(this, { box, start, rows, chosen: 0 });
    this.list = make("ul", { class: "completions", id: "completions", role: "listbox", "aria-label": "Completions" });
    this.list.append(...rows.map((row, index) => this.row(row, index)));
    const place = box.getBoundingClientRect();
    Object.assign(this.list.style, { left: `${place.left + window.scrollX}px`, top: `${place.bottom + window.scrollY}px`, maxWidth: `${place.width}px` });
    document.body.append(this.list);
    box.setAttribute("aria-controls", "completions");
    this.mark();
  }

  row(row, index) {
    const kind = KINDS[row.kind] ? [make("span", { class: "note" }, KINDS[row.kind])] : [];
    const item = make("li", { role: "option", id: `completion_${index}` }, make("span", {}, row.text), kind);
    // Not on click: by then the box has lost the focus and the list is closed.
    item.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.take(index);
    });
    return item;
  }

  mark() {
    [...this.list.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === this.chosen)));
    this.list.children[this.chosen].scrollIntoView({ block: "nearest" });
    this.box.setAttribute("aria-activedescendant", `completion_${this.chosen}`);
  }

  key(event) {
    if (!this.rows.length || event.target !== this.box || event.ctrlKey || event.altKey || event.metaKey) return;
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) this.chosen = (this.chosen + by + this.rows.length) % this.rows.length;
    else if (event.key === "Escape") this.close();
    else if (["Enter", "Tab"].includes(event.key) && !event.shiftKey) this.take(this.chosen);
    else return;
    event.preventDefault();
    event.stopPropagation();
    if (by) this.mark();
  }

  take(index) {
    const { box, start } = this;
    const { insert, kind } = this.rows[index];
    const after = box.value.slice(box.selectionStart);
    const text = kind === "tag" && !/^\s*,/.test(after) ? `${insert}, ` : insert;
    this.close();
    this.isTaking = true;
    replaceText(box, start, box.selectionStart, text);
    this.isTaking = false;
  }

  close() {
    this.rows = [];
    this.number += 1;
    this.list?.remove();
    this.box?.removeAttribute("aria-controls");
    this.box?.removeAttribute("aria-activedescendant");
    this.list = this.box = null;
  }
}
