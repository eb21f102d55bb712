// The tabs without a form. Gradio makes a tab's elements when it is first opened, and may make them
// again; a panel is then drawn anew. It hears when it comes into sight and when it leaves it.

export class Panels {
  // By name: objects with mount(root), and if they like opened() and closed().
  constructor(panels) {
    this.panels = panels;
    this.roots = new Map();
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const panel = this.panels[target.dataset.panel];
        if (panel) (isIntersecting ? panel.opened : panel.closed)?.call(panel);
      }
    });
  }

  // Looks for sections that are new.
  check() {
    for (const root of document.querySelectorAll(".panel[data-panel]")) {
      const name = root.dataset.panel;
      if (this.roots.get(name) === root || !this.panels[name]) continue;
      this.roots.set(name, root);
      root.replaceChildren();
      this.panels[name].mount(root);
      this.seen.observe(root);
    }
  }
}
