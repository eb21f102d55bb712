// Making elements in one line, and the words for sizes and times.

// make("button", { class: "small", onclick: run }, "Text", child, …): properties that begin with
// "on" listen, "class" and names with a dash or "aria…" are attributes, null and false are left out.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function button(text, run, properties = {}) {
  return make("button", { type: "button", class: "button", onclick: run, ...properties }, text);
}

// A picture of one line, as those in the HTML parts: emoji need a font that not every machine has.
export function icon(path) {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawn.setAttribute("viewBox", "0 0 24 24");
  drawn.setAttribute("aria-hidden", "true");
  drawn.append(document.createElementNS(drawn.namespaceURI, "path"));
  drawn.firstChild.setAttribute("d", path);
  return drawn;
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];

// Bytes as people read them: 1536 MB is "1.5 GB".
export function bytes(count) {
  let [value, unit] = [Number(count) || 0, 0];
  while (value >= 1000 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

// Runs the last of many calls, when `milliseconds` have passed without another one.
export function debounced(run, milliseconds) {
  let timer = null;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), milliseconds);
  };
}

// Writes into a text box as typing does: the browser's Ctrl+Z takes it back, and Gradio learns of it.
export function replaceText(box, start, end, text) {
  box.focus();
  box.setSelectionRange(start, end);
  if (document.execCommand(text ? "insertText" : "delete", false, text)) return;
  box.setRangeText(text, start, end, "end");
  box.dispatchEvent(new Event("input", { bubbles: true }));
}
