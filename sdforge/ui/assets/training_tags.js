// The words that a LoRA was trained with, as kohya's trainers write them into its header
// (`ss_tag_frequency`): how often each came, and a prompt drawn from them.

import { button, make } from "./dom.js";

const MOST_SHOWN = 24;

// [[tag, count], …] over all folders of the training set, the commonest first.
export function tagsOf(metadata) {
  const counts = new Map();
  for (const folder of Object.values(metadata.ss_tag_frequency || {})) {
    if (!folder || typeof folder !== "object") continue;
    for (const [name, count] of Object.entries(folder)) {
      const tag = name.trim();
      if (tag && count > 0) counts.set(tag, (counts.get(tag) || 0) + Number(count));
    }
  }
  return [...counts].sort((one, other) => other[1] - one[1]);
}

// As A1111's: each tag with the likelihood of its count over the commonest one's. `random` gives 0 to 1.
export function randomPrompt(tags, random = Math.random) {
  const most = tags[0]?.[1] || 1;
  const drawn = tags.filter(([, count]) => count > random() * most);
  return drawn.map(([tag]) => escaped(tag)).sort().join(", ");
}

// Brackets would be weights.
function escaped(tag) {
  return tag.replace(/[()[\]{}]/g, "\\$&");
}

// `insert` takes the text that shall go into a prompt.
export function tagBox(tags, insert) {
  const text = make("textarea", { id: "card_random_prompt", rows: 3, "aria-label": "Random prompt" });
  const roll = () => { text.value = randomPrompt(tags); };
  const add = (tag) => { text.value = [text.value.trim(), escaped(tag)].filter(Boolean).join(", "); };
  roll();
  return make("section", { class: "training-tags" },
    make("h3", {}, "Training tags"),
    make("div", { class: "tag-chips", data: { verbatim: "" } },
      tags.slice(0, MOST_SHOWN).map(([tag, count]) => button(`${tag} ${count}`, () => add(tag), { class: "button tiny" }))),
    text,
    make("div", { class: "tools" },
      button("Random prompt", roll, { class: "button small", id: "card_roll_prompt", title: "Draw tags, each as often as it came in training" }),
      button("Into the prompt", () => insert(text.value), { class: "button small", id: "card_use_prompt", title: "Add this text to the prompt that was used last" })));
}
