// still.js: the static picture beside a live view, hidden while the view lives.
//
// A viewer without scripts shows only the still. While the script runs, the still is
// hidden wherever it appears; front ends replace it when the kernel refreshes it.

import { put } from "./dom.js";

// Hide the stills of `id` under `root()`. Returns a function that shows them again.
export function hideStill(id, el) {
  const hidden = new Map(); // element -> its style.display before
  const selector = `[data-mpreg-still="${CSS.escape(id)}"]`;

  function hide() {
    for (const still of document.querySelectorAll(selector)) {
      const holder = still.closest(".jp-OutputArea-child") ?? still;
      if (holder.contains(el) || holder.style.display === "none") continue;
      if (!hidden.has(holder)) hidden.set(holder, holder.style.display);
      holder.style.display = "none";
      put(holder, "data-mpreg-hidden", id);
    }
  }

  // Our own drawing changes often and holds no still.
  const observer = new MutationObserver((changes) => {
    if (changes.some((change) => !el.contains(change.target))) hide();
  });
  const root = el.closest(".jp-OutputArea, .jp-Cell") ?? document.body;
  observer.observe(root, { childList: true, subtree: true });
  hide();

  return () => {
    observer.disconnect();
    for (const [holder, display] of hidden) {
      holder.style.display = display;
      put(holder, "data-mpreg-hidden", null);
    }
    hidden.clear();
  };
}
