// Entry of the page's scripts: gives Gradio's events their functions, and wires the rest.
//
// Reading order: form.js (values of the form), jobs.js (from Generate to the picture), results.js
// and lightbox.js (what is shown), status.js (server and model), keys.js, paste.js, notify.js, http.js.

import * as form from "./form.js";
import { JobFollower } from "./jobs.js";
import { listenToKeys } from "./keys.js";
import { openLightbox } from "./lightbox.js";
import { notify } from "./notify.js";
import { listenToPaste } from "./paste.js";
import { Results } from "./results.js";
import { ServerStatus } from "./status.js";

const results = new Results("txt2img");
const jobs = new JobFollower("txt2img", results);
const status = new ServerStatus();

const answers = {
  // What the server said to a Gradio event: see PageActions in actions.py.
  take({ answer }) {
    const message = JSON.parse(answer || "{}");
    if (message.page) {
      form.setPage(message.page);
      status.setChosen(message.page);
      jobs.setPeriod(message.page.poll_ms);
    }
    if (message.task) jobs.answered(message);
    else if (message.problem) showProblem(message.problem);
    if (message.tokens) form.showTokens(message.tokens);
    if (message.note) notify(message.note);
  },
};

function showProblem(problem) {
  notify(problem.message, "error");
  if (problem.field) form.markBad(problem.field);
}

const modules = {
  answers,
  form: {
    stored: form.stored,
    remember: form.remember,
    take_pending: form.takePending,
    before_paste: (values) => form.beforePaste(values, results.infotext()),
  },
  jobs: { before_submit: () => ({ task_id: jobs.nextId() }) },
};

// Called by the snippets that bindings.py makes: values by name in, a list in the same order out.
function call(path, names, values) {
  const [module, name] = path.split(".");
  const given = Object.fromEntries(names.map((key, index) => [key, values[index]]));
  const changed = modules[module][name](given) || {};
  return names.map((key, index) => (key in changed ? changed[key] : values[index]));
}

function confirmClear() {
  const { prompt, negative_prompt: negative } = form.values();
  if (!prompt && !negative) return;
  form.set({ prompt: "", negative_prompt: "" });
  notify("Prompts cleared.", "info", {
    label: "Undo",
    run: () => form.set({ prompt, negative_prompt: negative }),
  });
}

function sendSeed(name, picture) {
  if (!picture) notify("There is no picture yet whose seed could be taken.");
  else form.set({ [name]: picture });
}

const clicks = {
  txt2img_generate: () => jobs.submit(),
  txt2img_interrupt: () => jobs.cancel(),
  txt2img_skip: () => jobs.skip(),
  paste: () => form.press("paste"),
  txt2img_clear_prompt: confirmClear,
  txt2img_res_switch_btn: () =>
    form.set({ width: form.values().height, height: form.values().width }),
  txt2img_random_seed: () => form.set({ seed: -1 }),
  txt2img_reuse_seed: () => sendSeed("seed", results.seed()),
  txt2img_send_seed: () => sendSeed("seed", results.seed()),
  txt2img_random_subseed: () => form.set({ subseed: -1 }),
  txt2img_reuse_subseed: () => sendSeed("subseed", results.subseed()),
  txt2img_enlarge: () => openLightbox(results),
  txt2img_copy_info: () => results.copyInfotext(),
  refresh_sd_model_checkpoint: () => form.press("refresh_checkpoints"),
};

// Gradio makes and drops elements as it likes, so everything is looked up when it is clicked.
document.addEventListener("click", (event) => {
  const target = event.target.closest("button, a");
  if (!target) return;
  if (clicks[target.id]) clicks[target.id]();
  else if (target.dataset.size) form.setSize(target.dataset.size);
  else if (target.dataset.picture !== undefined) results.select(Number(target.dataset.picture));
});

// Gradio makes this part later than the scripts, and may make it again: then all is drawn anew.
let drawn = null;
new MutationObserver(() => {
  const gallery = document.getElementById("txt2img_gallery");
  if (!gallery || gallery === drawn) return;
  drawn = gallery;
  results.redraw();
  form.redraw();
  status.draw();
}).observe(document.documentElement, { childList: true, subtree: true });

listenToPaste(form);
listenToKeys({ jobs, results, form });
status.onTitleChanged = () => form.press("show_checkpoint");
status.begin();
jobs.resume();

Object.assign(window.sdforge, { form, jobs, results, status, notify });
window.sdforge.begin({ call });
