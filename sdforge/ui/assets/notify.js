// Short messages at the page's edge. Errors and warnings stay until they are closed.

const SECONDS = 5;

function area() {
  let element = document.getElementById("messages");
  if (!element) {
    element = document.createElement("div");
    element.id = "messages";
    document.body.append(element);
  }
  return element;
}

// Of a `topic` only the newest message is shown.
export function notify(text, kind = "info", action = null, topic = "") {
  const same = [...area().children].filter((child) => child.dataset.text === text);
  for (const one of same) one.remove();
  if (topic) dropMessages(topic);
  const message = document.createElement("div");
  message.className = `message ${kind}`;
  Object.assign(message.dataset, { text, topic });
  message.setAttribute("role", kind === "error" ? "alert" : "status");
  const words = document.createElement("span");
  words.textContent = text;
  message.append(words);
  if (action) message.append(button(action.label, () => { action.run(); message.remove(); }));
  const close = button("×", () => message.remove());
  close.setAttribute("aria-label", "Close this message");
  message.append(close);
  area().append(message);
  if (kind === "info") setTimeout(() => message.remove(), SECONDS * 1000);
}

// Takes messages back that are no longer true.
export function dropMessages(topic) {
  area().querySelectorAll(`[data-topic="${topic}"]`).forEach((message) => message.remove());
}

// A new attempt makes old errors and warnings moot.
export function clearErrors() {
  area().querySelectorAll(".error, .warning").forEach((message) => message.remove());
}

function button(label, run) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  element.addEventListener("click", run);
  return element;
}
