// Entry of the page's scripts: gives Gradio's events their functions, and wires the rest.
//
// Reading order: tab.js (one tab), form.js (values of its form), jobs.js (from Generate to the
// picture), results.js and lightbox.js (what is shown), pictures.js and batch.js (what img2img starts from),
// controlnet.js (its units), script.js and sweep.js (X/Y/Z plots), fit.js (will it fit?), status.js
// (server and model), keys.js, paste.js, notify.js, http.js. The tabs without a form: panels.js, then
// live.js (with live_socket.js and sketch.js), extras.js, pnginfo.js, merger.js, queue.js, history.js,
// models.js, settings.js, system.js.

import { listenToTyping } from "./complete.js";
import { setDoneFacts } from "./done.js";
import { ExtrasTab } from "./extras.js";
import { listenToMenus } from "./forever.js";
import { press } from "./form.js";
import { HistoryPanel } from "./history.js";
import { isReachable } from "./http.js";
import { showKeys } from "./key_help.js";
import { listenToKeys } from "./keys.js";
import { LivePanel } from "./live.js";
import { localize } from "./locale.js";
import { MergerPanel } from "./merger.js";
import { ModelsPanel } from "./models.js";
import { notify } from "./notify.js";
import { listenToPaste } from "./paste.js";
import { Panels } from "./panels.js";
import { PngInfo } from "./pnginfo.js";
import { QueuePanel } from "./queue.js";
import { QuickSettings } from "./quick.js";
import { SettingsPanel } from "./settings.js";
import { ServerStatus } from "./status.js";
import { SystemPanel } from "./system.js";
import { Tab } from "./tab.js";
import { openTab, tabOf } from "./tabs.js";

const SHOWN_KEY = "sdforge.tab";

const tabs = {};
for (const name of ["txt2img", "img2img"]) tabs[name] = new Tab(name, tabs);
const all = Object.values(tabs);
const status = new ServerStatus();
const quick = new QuickSettings(tabs, () => ask("show_checkpoint"));
let last = tabs.txt2img;
const extras = new ExtrasTab(tabs);
tabs.extras = extras;
// The tab with jobs that is on screen, or the one with a form that was last.
const shown = () => (extras.isShown() ? extras : (last = all.find((tab) => tab.isShown()) || last));
const panels = new Panels({
  live: new LivePanel(tabs),
  extras,
  pnginfo: new PngInfo(tabs),
  modelmerger: new MergerPanel(() => ask("show_checkpoint")),
  queue: new QueuePanel(tabs),
  history: new HistoryPanel(tabs),
  models: new ModelsPanel(() => last, () => ask("show_checkpoint")),
  settings: new SettingsPanel(() => ask("show_checkpoint")),
  system: new SystemPanel(() => tabs.txt2img.form.page?.sizes[0] || [512, 512]),
});

const answers = {
  // What the server said to a Gradio event: see PageActions and TabActions.
  take({ answer }) {
    const message = JSON.parse(answer || "{}");
    if (message.page) {
      status.setChosen(message.page);
      setDoneFacts(message.page);
      quick.load();
      for (const tab of all) {
        tab.form.setPage(message.page);
        tab.jobs.setPeriod(message.page.poll_ms);
        tab.fit.again();
      }
    }
    if (message.tab) tabs[message.tab].answered(message);
    // A job that failed by a fault of the server's is one of the tabs'.
    else if (message.task) all.forEach((tab) => tab.jobs.answered(message));
    else if (message.problem) shown().showProblem(message.problem);
    else if (message.note) notify(message.note);
    // All other answers may have changed values.
    if (!message.fit && !message.tokens && !message.plan) all.forEach((tab) => tab.form.readSoon());
  },
};

const page = {
  stored: () => ({ stored: JSON.stringify(Object.fromEntries(all.map((tab) => [tab.name, tab.form.stored()]))) }),
};

// Called by the snippets that bindings.py makes: values by name in, a list in the same order out.
function call(path, names, values, keeps) {
  const [owner, name] = path.split(".");
  const given = Object.fromEntries(names.map((key, index) => [key, values[index]]));
  const changed = { answers, page, ...tabs }[owner][name](given) || {};
  return names.map((key, index) => (key in changed ? changed[key] : keeps ? values[index] : undefined));
}

function ask(name) {
  if (isReachable()) press(name);
  else notify("The server cannot be reached. Try again when it is back.");
}

// Gradio makes and drops elements as it likes, so everything is looked up when it is clicked.
document.addEventListener("click", (event) => {
  const target = event.target.closest("button, a");
  if (!target) return;
  if (target.id === "show_keys") showKeys();
  else if (target.id === "refresh_sd_model_checkpoint") ask("refresh_checkpoints");
  else if (target.dataset.size) shown().form.setSize(target.dataset.size);
  else if (target.dataset.picture !== undefined) shown().results.select(Number(target.dataset.picture));
  else if (target.id) shown().click(target.id);
});

// Before Gradio hears of it: it moves the button from the menu into the row.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest("button");
    const name = button && tabOf(button);
    if (!name) return;
    if (event.isTrusted) rememberTab(name);
    // A tab that was hidden has asked for nothing meanwhile.
    setTimeout(() => shown().fit.soon());
  },
  { capture: true }
);

function rememberTab(name) {
  try {
    sessionStorage.setItem(SHOWN_KEY, name);
  } catch {
    // The page then opens with its first tab.
  }
}

function openRememberedTab() {
  try {
    const name = sessionStorage.getItem(SHOWN_KEY);
    if (name && !tabs[name]?.isShown()) openTab(name);
  } catch {
    // Storage is forbidden.
  }
}

// Gradio makes these parts later than the scripts, and may make them again: then all is drawn anew.
const PARTS = ["gallery", "size_presets", "pictures", "hr_finalres", "controlnet", "references"];
const drawn = {};
new MutationObserver(() => {
  panels.check();
  for (const tab of all) {
    const parts = PARTS.map((part) => document.getElementById(`${tab.name}_${part}`));
    const before = drawn[tab.name];
    if (!parts[0] || parts.every((part, index) => part === before?.[index])) continue;
    if (!Object.keys(drawn).length) setTimeout(openRememberedTab);
    drawn[tab.name] = parts;
    quick.draw();
    tab.redraw();
    status.draw();
  }
}).observe(document.documentElement, { childList: true, subtree: true });

localize();
listenToPaste(shown, panels.panels.pnginfo);
listenToKeys(shown);
listenToTyping();
listenToMenus(shown);
document.addEventListener("focusin", ({ target }) => {
  if (target.closest?.(".prompt")) shown().focused(target);
});
status.onTitleChanged = () => ask("show_checkpoint");
status.onFilesChanged = () => {
  ask("show_checkpoint");
  if (panels.panels.models.grid) panels.panels.models.load();
};
status.begin();
for (const tab of all) {
  tab.jobs.resume();
  tab.sweep.resume();
}

Object.assign(window.sdforge, { tabs, status, notify, panels: panels.panels });
window.sdforge.begin({ call });
