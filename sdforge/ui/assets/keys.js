// Hot keys: Ctrl/⌘+Enter generates, Alt+Enter skips, Esc interrupts, Ctrl/⌘+↑↓ weighs a word,
// Alt+←→ moves an item of the prompt past its neighbour.

import { replaceText } from "./dom.js";
import { showKeys } from "./key_help.js";

const WEIGHT_STEP = 0.1;
const DELIMITERS = /[\s.,\\/!?%^*;:{}=`~()<>[\]|]/;

// `shown` returns the tab that is on screen.
export function listenToKeys(shown) {
  const onKey = (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    const { jobs, results } = shown();
    const withControl = event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && withControl) {
      event.preventDefault();
      jobs.submit();
    } else if (event.key === "Enter" && event.altKey) {
      event.preventDefault();
      jobs.skip();
    } else if (event.key === "Escape") {
      if (!closesSomething(event.target) && !shown().pictures?.leaveFull() && jobs.isRunning()) jobs.cancel();
    } else if (withControl && ["ArrowUp", "ArrowDown"].includes(event.key)) {
      weighInPrompt(event);
    } else if (event.altKey && ["ArrowLeft", "ArrowRight"].includes(event.key) && isPrompt(event.target)) {
      moveInPrompt(event);
    } else if (["ArrowLeft", "ArrowRight"].includes(event.key) && event.target.closest?.(".results, dialog")) {
      event.preventDefault();
      results.move(event.key === "ArrowLeft" ? -1 : 1);
    } else if (shown().pictures?.key(event)) {
      event.preventDefault();
    } else if (event.key === "?" && !isWritten(event.target)) {
      showKeys();
    }
  };
  document.addEventListener("keydown", onKey);
  // Gradio's boxes turn at Enter, whatever is held beside it: one that was just ticked would be unticked by Ctrl+Enter.
  const turns = ({ key, ctrlKey, metaKey, altKey, target }) => key === "Enter" && (ctrlKey || metaKey || altKey) && target.matches?.("input[type=checkbox]");
  const onCapturedKey = (event) => {
    if (!turns(event)) return;
    event.stopPropagation();
    onKey(event);
  };
  document.addEventListener("keydown", onCapturedKey, { capture: true });
}

// Escape belongs to an open list or dialog first.
function closesSomething(target) {
  return Boolean(document.querySelector("dialog[open]")) || target.getAttribute?.("aria-expanded") === "true";
}

function isWritten(element) {
  return Boolean(element.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable]"));
}

function isPrompt(box) {
  return box.tagName === "TEXTAREA" && Boolean(box.closest(".prompt"));
}

function weighInPrompt(event) {
  const box = event.target;
  if (!isPrompt(box)) return;
  event.preventDefault();
  const by = event.key === "ArrowUp" ? WEIGHT_STEP : -WEIGHT_STEP;
  put(box, weigh(box.value, box.selectionStart, box.selectionEnd, by));
}

function moveInPrompt(event) {
  event.preventDefault();
  const box = event.target;
  put(box, moveItem(box.value, box.selectionStart, event.key === "ArrowLeft" ? -1 : 1));
}

// Returns the text with the item at the caret and its neighbour exchanged; null at either end.
export function moveItem(text, caret, by) {
  const items = text.split(",");
  let [index, before] = [0, 0];
  while (index < items.length - 1 && caret > before + items[index].length) before += items[index++].length + 1;
  const other = index + by;
  if (other < 0 || other >= items.length) return null;
  // What is exchanged are the words; the spaces around them stay where they are.
  const [mine, its] = [items[index].trim(), items[other].trim()];
  if (!mine) return null;
  items[index] = items[index].trim() ? items[index].replace(mine, () => its) : its;
  items[other] = items[other].trim() ? items[other].replace(its, () => mine) : ` ${mine}`;
  const start = items.slice(0, other).reduce((sum, item) => sum + item.length + 1, 0) + items[other].indexOf(mine);
  return { text: items.join(","), start, end: start + mine.length };
}

function put(box, changed) {
  if (!changed) return;
  replaceText(box, 0, box.value.length, changed.text);
  box.setSelectionRange(changed.start, changed.end);
}

// Returns the text with the weight of what is selected, or of the word at the caret, changed.
export function weigh(text, start, end, by) {
  const inside = enclosing(text, start, end);
  if (inside) {
    const weight = Math.round((inside.weight + by) * 100) / 100;
    if (weight <= 0) return null;
    if (weight === 1 && inside.opener === "(") {
      return splice(text, inside.from, inside.to, inside.words, 0);
    }
    const open = inside.opener;
    return splice(text, inside.from, inside.to, `${open}${inside.words}:${weight}${open === "(" ? ")" : ">"}`, 1);
  }
  if (start === end) [start, end] = wordAt(text, start);
  while (end > start && text[end - 1] === " ") end -= 1;
  if (start === end) return null;
  return splice(text, start, end, `(${text.slice(start, end)}:${Math.round((1 + by) * 100) / 100})`, 1);
}

// The innermost (words:1.1) or <lora:name:1> around the selection.
function enclosing(text, start, end) {
  const pattern = /([(<])([^()<>]*):(-?\d*\.?\d+)[)>]/g;
  for (const found of text.matchAll(pattern)) {
    const [whole, opener, words, weight] = found;
    const [from, to] = [found.index, found.index + whole.length];
    if (from <= start && end <= to) return { from, to, opener, words, weight: Number(weight) };
  }
  return null;
}

function wordAt(text, caret) {
  let [start, end] = [caret, caret];
  while (start > 0 && !DELIMITERS.test(text[start - 1])) start -= 1;
  while (end < text.length && !DELIMITERS.test(text[end])) end += 1;
  return [start, end];
}

// Selects the words inside the brackets, so that the next press changes the same weight.
function splice(text, from, to, replacement, margin) {
  const words = margin ? replacement.lastIndexOf(":") : replacement.length;
  return { text: text.slice(0, from) + replacement + text.slice(to), start: from + margin, end: from + words };
}
