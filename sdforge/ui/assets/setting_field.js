// One setting's control, made from its row in the server's table: for the Settings tab and the quick settings.

import { make } from "./dom.js";
import { multichoice } from "./multichoice.js";

// `changed` is called with each new value; at the `event` "input" while it is typed, at "change" when it is left.
// `labels` are those of all settings by key, `none` is shown where nothing of a list is chosen.
export function settingField(row, value, { id, changed, labels = {}, none = "None", event = "input" }) {
  const common = { id, disabled: row.locked };
  if (row.kind === "bool") {
    const box = make("input", { type: "checkbox", ...common, checked: Boolean(value) });
    box.addEventListener("change", () => changed(box.checked));
    return box;
  }
  if (row.kind === "tuple" && row.choices) {
    const named = row.key === "quicksettings_list" ? labels : null;
    return multichoice({ id, label: row.label, choices: row.choices, chosen: value, none, labels: named, changed, disabled: row.locked });
  }
  if (row.choices) {
    const known = row.choices.includes(value) ? row.choices : [value, ...row.choices];
    const options = known.map((choice) => make("option", { value: choice, selected: choice === value }, choice || "(empty)"));
    const select = make("select", common, options);
    select.addEventListener("change", () => changed(select.value));
    return select;
  }
  const isNumber = row.kind === "int" || row.kind === "float";
  const input = make("input", { type: isNumber ? "number" : "text", ...common, value: shownInField(value) });
  if (isNumber) {
    input.step = row.kind === "int" ? "1" : "any";
    if (row.minimum !== null) input.min = row.minimum;
    if (row.maximum !== null) input.max = row.maximum;
  }
  // What is no number is sent as it stands, so that the server names it.
  input.addEventListener(event, () => changed(valueOf(row, input)));
  return input;
}

function valueOf(row, input) {
  if (row.kind === "tuple") return input.value.split(",").map((part) => part.trim()).filter(Boolean);
  if (row.kind === "str" || input.value === "") return input.value;
  return Number(input.value);
}

export function shownInField(value) {
  return Array.isArray(value) ? value.join(", ") : String(value ?? "");
}
