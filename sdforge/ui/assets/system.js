// System: who held how many bytes over the last minutes, which models lie where, and versions.

import { Benchmark } from "./benchmark.js";
import { playTones, requestNotifications } from "./done.js";
import { button, bytes, make, moment } from "./dom.js";
import { address, request } from "./http.js";
import { notify } from "./notify.js";

const PERIOD_MS = 1000;
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [800, 180];
const COLOURS = ["#3d8676", "#c58b3b", "#5b7fb5", "#a65f7b", "#7a9a3f", "#8a6fb0", "#4fa3a3", "#b5654a"];
const STATES = { device: "on the device", host: "in main memory", disk: "on disk", loading: "loading" };

export class SystemPanel {
  // `size` returns [width, height] that suit the checkpoint.
  constructor(size) {
    this.benchmark = new Benchmark(size);
  }

  mount(root) {
    this.charts = make("div", { class: "memory-charts" });
    this.models = make("div", { class: "system-models" });
    this.facts = make("div", { class: "system-facts" });
    root.append(
      make("h2", {}, "Memory by owner"),
      this.charts,
      make("h2", {}, "Checkpoints"),
      make(
        "div",
        { class: "tools" },
        button("Unload all models", () => this.act("sdapi/v1/unload-checkpoint"), { id: "sett_unload_sd_model" }),
        button("Load the checkpoint", () => this.act("sdapi/v1/reload-checkpoint"), { id: "sett_reload_sd_model" })
      ),
      this.models,
      make("h2", {}, "Benchmark"),
      ...this.benchmark.make(),
      make("h2", {}, "When a job is done"),
      make(
        "div",
        { class: "tools" },
        button("Request notifications", () => requestNotifications(), { id: "request_notifications" }),
        button("Play the sound", () => playTones(1), { id: "play_sound" })
      ),
      make("h2", {}, "Versions and machine"),
      make("p", { class: "note" }, make("a", { href: address("internal/sysinfo-download"), id: "internal_sysinfo_download" }, "Sysinfo"), " ", "Versions, device, settings and flags for a report; no paths and no passwords."),
      this.facts
    );
    this.drawFacts();
  }

  opened() {
    clearInterval(this.timer);
    this.timer = setInterval(() => this.ask(), PERIOD_MS);
    this.ask();
  }

  closed() {
    clearInterval(this.timer);
  }

  async ask() {
    if (document.hidden || this.asking) return;
    this.asking = true;
    try {
      const [history, models] = await Promise.all([request("api/v1/memory/history"), request("api/v1/models")]);
      this.drawHistory(history);
      this.drawModels(models.models);
    } catch {
      // The banner says that the server is away; the next second asks again.
    }
    this.asking = false;
  }

  drawHistory(samples) {
    const last = samples[samples.length - 1];
    if (!last) return;
    const onDevice = (sample) => ({ ...sample.on_device, "other programs": sample.device_foreign });
    const inProcess = ({ process }) => ({ "own pages": process.anonymous, "pages of files": process.file, shared: process.shared });
    const charts = [
      chart(`Device, ${bytes(last.device_total)}, highest ${bytes(last.device_peak)}`, samples, onDevice),
      chart("Main memory of the models", samples, (sample) => sample.on_host),
      chart("This process", samples, inProcess),
    ];
    this.charts.replaceChildren(...charts.filter(Boolean));
  }

  drawModels(rows) {
    const shown = JSON.stringify(rows.map(({ idle_seconds: _, ...row }) => row));
    if (shown === this.shownModels && this.models.childElementCount) return;
    this.shownModels = shown;
    const head = ["Checkpoint", "Family", "Where", "Main memory", "Device", ""].map((name) => make("th", { scope: "col" }, name));
    const body = rows.map((row) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, row.title),
        make("td", {}, row.family || "–"),
        make("td", {}, row.error || STATES[row.state] || row.state),
        make("td", {}, row.host_bytes ? bytes(row.host_bytes) : "–"),
        make("td", {}, row.device_bytes ? bytes(row.device_bytes) : "–"),
        make("td", {}, this.action(row))
      )
    );
    this.models.replaceChildren(make("table", { class: "facts" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
  }

  action(row) {
    if (row.error || row.state === "loading") return "";
    const isOut = row.state === "disk";
    const path = `api/v1/models/${isOut ? "load" : "unload"}`;
    const label = `${isOut ? "Load" : "Unload"} ${row.title}`;
    return button(isOut ? "Load" : "Unload", () => this.act(path, { model: row.title }), { class: "button small", "aria-label": label });
  }

  async act(path, body = {}) {
    try {
      await request(path, body, { timeout: 600000 });
      this.ask();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  async drawFacts() {
    try {
      const status = await request("api/v1/status");
      const versions = document.querySelector("#footer .versions")?.textContent.trim().split(" · ") || [];
      const { memory } = status;
      const pairs = [
        ...versions.map((text) => [text.slice(0, text.lastIndexOf(" ")), text.slice(text.lastIndexOf(" ") + 1)]),
        ["Device", `${memory.device}, ${bytes(memory.total_bytes)}`],
        ["Memory mode", memory.mode ? `${memory.mode} (setting ${memory.setting}): ${memory.reason}` : memory.reason],
        ["Browser", navigator.userAgent],
        ["Page loaded", moment(performance.timeOrigin / 1000)],
      ];
      const rows = pairs.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
      this.facts.replaceChildren(make("table", { class: "facts" }, make("tbody", {}, rows)));
    } catch (error) {
      this.facts.textContent = error.message;
    }
  }
}

// Owners stacked over time, null where nobody owned anything; `owners` returns bytes by owner.
function chart(title, given, owners) {
  // A single sample is drawn as a level line.
  const samples = given.length > 1 ? given : [given[0], { ...given[0], time: given[0].time + 1 }];
  const all = samples.map((sample) => owners(sample) || {});
  const names = [...new Set(all.flatMap((one) => Object.keys(one)))].filter((name) => all.some((one) => one[name] > 0));
  if (!names.length) return null;
  const [from, to] = [samples[0].time, samples[samples.length - 1].time];
  const times = samples.map(({ time }) => (time - from) / (to - from || 1));
  const totals = all.map((one) => names.reduce((sum, name) => sum + (one[name] || 0), 0));
  const top = Math.max(...totals, 1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const below = all.map(() => 0);
  names.forEach((name, index) => {
    const lower = below.map((value, at) => point(times[at], value / top));
    all.forEach((one, at) => (below[at] += one[name] || 0));
    const upper = below.map((value, at) => point(times[at], value / top));
    const area = document.createElementNS(SVG, "polygon");
    area.setAttribute("points", [...upper, ...lower.reverse()].join(" "));
    area.setAttribute("fill", COLOURS[index % COLOURS.length]);
    svg.append(area);
  });
  const latest = all[all.length - 1];
  const legend = names.map((name, index) => {
    const patch = make("span", { class: "patch" });
    patch.style.background = COLOURS[index % COLOURS.length];
    return make("li", {}, patch, `${name}: ${bytes(latest[name] || 0)}`);
  });
  const seconds = Math.round(to - from);
  const caption = `${title}: ${bytes(totals[totals.length - 1])} now, ${bytes(top)} at most in the last ${Math.max(seconds, 1)} s`;
  return make("figure", { class: "memory-chart" }, make("figcaption", {}, caption), svg, make("ul", { class: "legend" }, legend));
}

function point(across, up) {
  return `${(across * WIDTH).toFixed(1)},${(HEIGHT - up * (HEIGHT - 4)).toFixed(1)}`;
}
