// The row of tabs. Those that have no room are in the menu at its end, where Gradio's buttons have no
// ids: they are found by their label, in whatever language it stands.

import { translated } from "./locale.js";

const PREFIX = "tab_";

// Labels by name.
function labels() {
  const components = window.gradio_config?.components || [];
  const tabs = components.filter(({ type, props }) => type === "tabitem" && props.elem_id?.startsWith(PREFIX));
  return tabs.map(({ props }) => [props.elem_id.slice(PREFIX.length), props.label]);
}

const inMenu = () => [...document.querySelectorAll("#tabs .overflow-dropdown button")];
const says = (button, label) => [label, translated(label)].includes(button.textContent.trim());

export function openTab(name) {
  const inRow = document.getElementById(`tab_${name}-button`);
  const label = labels().find(([one]) => one === name)?.[1];
  (inRow || inMenu().find((button) => says(button, label)))?.click();
}

// The name of the tab that a button opens; null for any other button.
export function tabOf(button) {
  const found = /^tab_(.+)-button$/.exec(button.id);
  if (found) return found[1];
  if (!inMenu().includes(button)) return null;
  return labels().find(([, label]) => says(button, label))?.[0] || null;
}
