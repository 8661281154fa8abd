// keys.js: keys that are pressed in a panel belong to the panel.
//
// JupyterLab takes keys at the document before any element sees them: in command mode
// an arrow moves to the next cell, Enter edits it, "d d" deletes it. It leaves those
// alone whose target has this attribute. Keys with Ctrl, Alt or Meta, and Shift with
// Enter, stay with the front end, so that saving and running work everywhere.

import { put } from "./dom.js";

const MARK = "data-lm-suppress-shortcuts";

// Keep the keys of `el`. Returns a function that ends it.
export function keepKeys(el) {
  function mark(event) {
    if (!el.contains(event.target)) return;
    const foreign =
      event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    put(event.target, MARK, !foreign);
  }

  window.addEventListener("keydown", mark, true);
  return () => window.removeEventListener("keydown", mark, true);
}
