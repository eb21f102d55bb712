// The page in another language: every text that the table has is replaced where it stands, also in
// what is added later. What users write and what pictures say is left alone.

import { request } from "./http.js";

const ATTRIBUTES = ["title", "placeholder", "aria-label", "alt"];
const LEFT_ALONE = "script, style, textarea, pre, code, .infotext, .card-words, .token, [data-verbatim]";

// Gradio puts a value into its field a moment after it tells of it.
const VALUES_DELAY_MS = 100;

let exact = new Map();
let patterns = [];
let valuesTimer = null;
// What was put in, so that it is not taken for English again.
const done = new WeakMap();
const doneAttributes = new WeakMap();

export async function localize() {
  try {
    const { name, texts } = await request(`api/v1/localization?languages=${encodeURIComponent(navigator.languages.join(","))}`);
    if (name) use(name, texts);
  } catch {
    // The page stays English.
  }
}

function use(name, texts) {
  exact = new Map();
  patterns = [];
  for (const [english, other] of Object.entries(texts)) {
    if (english.includes("{}")) patterns.push([pattern(english), other]);
    else exact.set(english, other);
  }
  // The text that says most fits best: "{} of at least {}" before "{} of {}".
  patterns.sort(([one], [other]) => other.source.length - one.source.length);
  document.documentElement.lang = name.replace("_", "-");
  translateBelow(document.body);
  translateValuesSoon();
  for (const doing of ["change", "focusout", "click"]) document.addEventListener(doing, translateValuesSoon);
  new MutationObserver((changes) => {
    translateValuesSoon();
    for (const { type, target, addedNodes, attributeName } of changes) {
      if (type === "childList") addedNodes.forEach(translateBelow);
      else if (type === "characterData") translateText(target);
      else translateAttribute(target, attributeName);
    }
  }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
}

function pattern(english) {
  const parts = english.split("{}").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join("(.+?)")}$`, "s");
}

// Returns the text in the other language, or null where the table lacks it.
export function translated(text) {
  const known = exact.get(text);
  if (known !== undefined) return known;
  for (const [english, other] of patterns) {
    const found = english.exec(text);
    if (!found) continue;
    let index = 0;
    // What stands in for {} may be a text of the table itself.
    return other.replace(/\{\}/g, () => {
      const part = found[(index += 1)] ?? "";
      return translated(part) ?? part;
    });
  }
  return null;
}

function translateBelow(node) {
  if (node.nodeType === Node.TEXT_NODE) translateText(node);
  if (node.nodeType !== Node.ELEMENT_NODE) return;
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) translateText(walker.currentNode);
  for (const element of [node, ...node.querySelectorAll("[title], [placeholder], [aria-label], [alt]")]) {
    for (const name of ATTRIBUTES) if (element.hasAttribute(name)) translateAttribute(element, name);
  }
}

// Gradio's lists show what is chosen in a text field, whose value is searched for and must stay: the other language's
// word lies over it while nothing is typed there (style.css).
export function translateValuesSoon() {
  if (exact.size && !valuesTimer) valuesTimer = setTimeout(translateValues, VALUES_DELAY_MS);
}

function translateValues() {
  valuesTimer = null;
  for (const input of document.querySelectorAll("input[role=combobox]")) {
    const wrap = input.parentElement;
    const other = exact.get(input.value);
    if (other && other !== input.value) {
      if (wrap.dataset.shown !== other) wrap.dataset.shown = other;
    } else if (wrap.dataset.shown) delete wrap.dataset.shown;
  }
}

function translateText(node) {
  const text = node.nodeValue.trim();
  if (!text || done.get(node) === text || node.parentElement?.closest(LEFT_ALONE)) return;
  const other = translated(text);
  if (other === null || other === text) return;
  done.set(node, other);
  node.nodeValue = node.nodeValue.replace(text, () => other);
}

function translateAttribute(element, name) {
  const text = element.getAttribute(name);
  const put = doneAttributes.get(element) || {};
  // Its own change comes back here; a text that is the same in both languages must end there.
  if (!text || put[name] === text || element.closest("[data-verbatim]")) return;
  const other = translated(text.trim());
  if (other === null || other === text) return;
  doneAttributes.set(element, { ...put, [name]: other });
  element.setAttribute(name, other);
}
