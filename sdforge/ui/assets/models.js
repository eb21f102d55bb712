// Models: checkpoints, LoRA, embeddings and hypernetworks as cards. A click puts a card into the prompt that was
// used last, or loads a checkpoint; the pencil opens its notes.

import { editCard } from "./card_editor.js";
import { button, debounced, make } from "./dom.js";
import { DownloadBox } from "./downloads.js";
import { address, request } from "./http.js";
import { notify } from "./notify.js";

const KINDS = { lora: "Lora", checkpoint: "Checkpoints", embedding: "Textual Inversion", hypernetwork: "Hypernetworks" };
// What cards of a kind are called by in a prompt; the others by their name alone.
const TAGS = { lora: "lora", hypernetwork: "hypernet" };
const ORDERS = { name: "Path", title: "Name", created: "Date created", modified: "Date modified", size: "Size" };
const KEPT = "sdforge.models";

export class ModelsPanel {
  // `target` returns the tab with a form that was on screen last; `onChosen` is called when the
  // checkpoint is another one.
  constructor(target, onChosen) {
    this.target = target;
    this.onChosen = onChosen;
    this.cards = [];
    this.multiplier = 1;
    this.separator = " ";
    this.view = { kind: "lora", order: "name", isUp: true, ...remembered() };
  }

  mount(root) {
    this.search = make("input", { type: "search", id: "models_search", placeholder: "Search", "aria-label": "Search models" });
    this.search.addEventListener("input", debounced(() => this.draw(), 120));
    this.kinds = make("div", { class: "segments-bar", role: "group", "aria-label": "Kind of models" });
    this.order = make("select", { id: "models_order", "aria-label": "Order" }, Object.entries(ORDERS).map(([key, text]) => make("option", { value: key }, text)));
    this.order.value = this.view.order;
    this.order.addEventListener("change", () => this.set({ order: this.order.value }));
    this.direction = button("", () => this.set({ isUp: !this.view.isUp }), { id: "models_direction", "aria-label": "Order" });
    this.count = make("span", { class: "note", role: "status" });
    this.grid = make("div", { class: "cards", id: "models_cards" });
    this.grid.addEventListener("click", (event) => this.clicked(event));
    const refresh = button("Refresh", () => this.refresh(), { id: "models_refresh", title: "Look for model files again" });
    root.append(make("div", { class: "tools panel-head" }, this.kinds, this.search, this.order, this.direction, refresh, this.count));
    this.downloads = new DownloadBox(() => this.refresh());
    this.downloads.mount(root);
    root.append(this.grid);
    this.downloads.load();
    this.load();
  }

  opened() {
    if (!this.cards.length) return;
    this.load();
    this.downloads.load();
  }

  set(changes) {
    Object.assign(this.view, changes);
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.view));
    } catch {
      // The choice then lasts as long as the page.
    }
    this.draw();
  }

  async refresh() {
    try {
      await request("api/v1/cards/refresh", {}, { timeout: 60000 });
      await this.load();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  async load() {
    try {
      const [cards, options] = await Promise.all([request("api/v1/cards"), request("sdapi/v1/options")]);
      this.multiplier = options.extra_networks_default_multiplier;
      this.separator = options.extra_networks_add_text_separator;
      this.current = options.sd_model_checkpoint;
      const news = JSON.stringify([cards, this.current]);
      if (news === this.drawn && this.grid.childElementCount) return;
      this.drawn = news;
      this.cards = cards;
      this.draw();
    } catch (error) {
      this.count.textContent = error.message;
    }
  }

  shown() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { kind, order, isUp } = this.view;
    const found = this.cards.filter((card) => card.kind === kind && words.every((word) => searchable(card).includes(word)));
    const compared = (a, b) => (typeof a[order] === "number" ? a[order] - b[order] : a[order].localeCompare(b[order], undefined, { numeric: true }));
    return found.sort((a, b) => (isUp ? compared(a, b) : compared(b, a)));
  }

  draw() {
    const { kind, isUp } = this.view;
    const counts = (wanted) => this.cards.filter((card) => card.kind === wanted).length;
    this.kinds.replaceChildren(
      ...Object.entries(KINDS).map(([key, text]) =>
        button(`${text} ${counts(key)}`, () => this.set({ kind: key }), { "aria-pressed": String(key === kind), data: { kind: key } })
      )
    );
    this.direction.textContent = isUp ? "↑" : "↓";
    this.direction.setAttribute("aria-label", isUp ? "Ascending" : "Descending");
    const cards = this.shown();
    this.byId = new Map(cards.map((card) => [card.name, card]));
    this.count.textContent = cards.length ? "" : this.search.value ? "Nothing found." : "There are no files of this kind.";
    this.grid.replaceChildren(...cards.map((card) => this.card(card)));
    this.markUsed();
  }

  card(card) {
    const face = card.preview
      ? make("img", { src: address(card.preview), alt: "", loading: "lazy", decoding: "async" })
      : make("span", { class: "card-letter", "aria-hidden": "true" }, card.title.slice(0, 1).toUpperCase());
    const words = [make("strong", {}, card.title)];
    if (card.error) words.push(make("span", { class: "card-error" }, card.error));
    else if (card.description) words.push(make("span", { class: "card-text" }, card.description));
    return make(
      "div",
      { class: "card", data: { card: card.name, ...(card.kind === "checkpoint" && card.title === this.current ? { used: "" } : {}) } },
      make("button", { type: "button", class: "card-face", title: card.title, disabled: Boolean(card.error) }, face, make("span", { class: "card-words" }, words)),
      make("button", { type: "button", class: "card-edit", "aria-label": `Notes of ${card.title}`, title: "Notes, preview, metadata" }, "✎")
    );
  }

  clicked(event) {
    const element = event.target.closest(".card");
    const card = element && this.byId.get(element.dataset.card);
    if (!card) return;
    if (event.target.closest(".card-edit")) editCard(card, this.target(), { onSaved: (changed) => this.replace(changed), insert: (text) => this.insertText(text) });
    else if (!event.target.closest(".card-face")) return;
    else if (card.kind === "checkpoint") this.choose(card);
    else this.insert(card);
  }

  replace(changed) {
    this.cards = this.cards.map((card) => (card.kind === changed.kind && card.name === changed.name ? changed : card));
    this.drawn = "";
    this.draw();
  }

  async choose(card) {
    try {
      await request("sdapi/v1/options", { sd_model_checkpoint: card.title });
      this.onChosen();
      notify(`${card.title} is the checkpoint now.`);
      this.load();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  // As in A1111, a second click takes it out again.
  insert(card) {
    const tab = this.target();
    const { prompt, negative_prompt: negative } = tab.form.coming();
    const name = tab.lastPrompt || "prompt";
    const changes = toggled(card, { prompt: prompt || "", negative_prompt: negative || "" }, name, this);
    tab.form.set(changes.values);
    const place = name === "prompt" ? "prompt" : "negative prompt";
    const text = changes.isAdded ? `${card.title} added to the ${place} of ${tab.name}.` : `${card.title} taken out of the ${place} of ${tab.name}.`;
    notify(text, "info", { label: "Open", run: () => tab.open() });
    this.markUsed(changes.values);
  }

  insertText(text) {
    if (!text.trim()) return;
    const tab = this.target();
    const name = tab.lastPrompt || "prompt";
    const before = (tab.form.coming()[name] || "").trimEnd();
    tab.form.set({ [name]: [before, text.trim()].filter(Boolean).join(", ") });
    notify(`The text was added to the ${name === "prompt" ? "prompt" : "negative prompt"} of ${tab.name}.`, "info", { label: "Open", run: () => tab.open() });
  }

  // Shows which cards the prompts hold.
  markUsed(values = this.target().form.values()) {
    const text = `${values.prompt || ""}\n${values.negative_prompt || ""}`;
    for (const element of this.grid.children) {
      const card = this.byId.get(element.dataset.card);
      if (card.kind in TAGS) element.toggleAttribute("data-used", pattern(card).test(text));
    }
  }
}

function pattern(card) {
  const name = card.insert.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return card.kind in TAGS ? new RegExp(`<${TAGS[card.kind]}:${name}(?::[^>]*)?>`, "i") : new RegExp(`(?<![\\w-])${name}(?![\\w-])`);
}

// Returns the prompts with a card put in, or taken out where it is in already.
export function toggled(card, prompts, name, { multiplier, separator }) {
  const values = { ...prompts };
  const found = pattern(card).exec(values[name]);
  const extra = card.kind in TAGS && card.activation_text ? [card.activation_text] : [];
  const added = card.kind in TAGS ? [`<${TAGS[card.kind]}:${card.insert}:${card.preferred_weight || multiplier}>`, ...extra] : [card.insert];
  if (found) {
    for (const part of [found[0], ...extra]) values[name] = without(values[name], part, separator);
    if (card.negative_text) values.negative_prompt = without(values.negative_prompt, card.negative_text, separator);
    return { values, isAdded: false };
  }
  values[name] = [values[name].trimEnd(), ...added].filter(Boolean).join(separator);
  if (card.negative_text && name === "prompt") values.negative_prompt = [values.negative_prompt.trimEnd(), card.negative_text].filter(Boolean).join(separator);
  return { values, isAdded: true };
}

function without(text, part, separator) {
  const whole = text.includes(separator + part) ? separator + part : part;
  return text.replace(whole, "").trimStart();
}

function searchable(card) {
  return `${card.name} ${card.title} ${card.description} ${card.activation_text} ${card.notes}`.toLowerCase();
}

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) || "{}");
    return kept.kind in KINDS && kept.order in ORDERS ? kept : {};
  } catch {
    return {};
  }
}
