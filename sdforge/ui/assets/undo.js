// What a tab's form held before the page changed it (a paste, a style, a preset, a size): kept in this
// browser, so that ↶ brings it back, also after a reload. What is typed has the browser's own Ctrl+Z.

const KEPT = 20;

export class Undo {
  constructor(key) {
    this.key = key;
  }

  // Call with the form's values before they change.
  push(values) {
    const stack = this.read();
    if (JSON.stringify(stack.at(-1)) === JSON.stringify(values)) return;
    this.write([...stack, values].slice(-KEPT));
  }

  // Returns the newest values that differ from `current` where they do; null when there are none.
  pop(current) {
    const stack = this.read();
    while (stack.length) {
      const before = stack.pop();
      const changes = Object.fromEntries(Object.entries(before).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(current[name])));
      if (!Object.keys(changes).length) continue;
      this.write(stack);
      return changes;
    }
    this.write(stack);
    return null;
  }

  read() {
    try {
      const stack = JSON.parse(localStorage.getItem(this.key) || "[]");
      return Array.isArray(stack) ? stack : [];
    } catch {
      return [];
    }
  }

  write(stack) {
    try {
      localStorage.setItem(this.key, JSON.stringify(stack));
    } catch {
      // Without storage there is nothing to go back to.
    }
  }
}
