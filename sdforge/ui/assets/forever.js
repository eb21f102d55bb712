// Generate forever: a right click on Generate opens a menu; while it is on, the next job is sent as
// soon as the last one is done.

import { make } from "./dom.js";
import { isReachable } from "./http.js";
import { notify } from "./notify.js";

const LOOK_MS = 500;

export class Forever {
  constructor(tab) {
    this.tab = tab;
    this.timer = null;
  }

  isOn() {
    return this.timer !== null;
  }

  start() {
    if (this.isOn()) return;
    this.timer = setInterval(() => this.look(), LOOK_MS);
    notify("Generating until you cancel it: right click on Generate.", "info", { label: "Cancel", run: () => this.stop() });
    this.look();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
  }

  // A form that is refused would be refused for ever.
  refused() {
    if (this.isOn()) this.stop();
  }

  look() {
    if (isReachable() && !this.tab.jobs.isRunning()) this.tab.jobs.submit();
  }
}

// `shown` returns the tab that is on screen.
export function listenToMenus(shown) {
  document.addEventListener("contextmenu", (event) => {
    const { forever, name } = shown();
    // Interrupt lies over Generate while a job runs.
    if (!forever || !event.target.closest?.(`#${name}_generate_box`)) return;
    event.preventDefault();
    openMenu(event.clientX, event.clientY, [
      ["Generate forever", () => forever.start(), forever.isOn()],
      ["Cancel generate forever", () => forever.stop(), !forever.isOn()],
    ]);
  });
}

function openMenu(left, top, entries) {
  document.querySelector(".context-menu")?.remove();
  const menu = make("div", { class: "context-menu", role: "menu" });
  const close = () => {
    menu.remove();
    document.removeEventListener("pointerdown", outside, true);
  };
  const outside = (event) => menu.contains(event.target) || close();
  for (const [text, run, disabled] of entries) {
    const choose = () => {
      close();
      run();
    };
    menu.append(make("button", { type: "button", role: "menuitem", disabled, onclick: choose }, text));
  }
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  document.addEventListener("pointerdown", outside, true);
  document.body.append(menu);
  const place = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(4, Math.min(left, window.innerWidth - place.width - 4))}px`;
  menu.style.top = `${Math.max(4, Math.min(top, window.innerHeight - place.height - 4))}px`;
  menu.querySelector("button:not(:disabled)")?.focus();
}
