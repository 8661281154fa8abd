// walk.js: of what belongs together, Tab reaches one item; arrow keys go to the others.
//
// `data-walk` says how: "list" around and around, "choose" too and each is chosen at
// once, "grid" to the neighbour in the row or the column.

import { put } from "./dom.js";

const STEPS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

export function makeWalk(place, tip) {
  const reached = new WeakMap(); // group -> the `data-item` that Tab reaches

  const itemsOf = (group) => [...group.querySelectorAll("[data-item]")];

  place.addEventListener("focusin", (event) => {
    const group = event.target.closest("[data-walk]");
    const item = event.target.getAttribute("data-item");
    if (group === null || item === null) return;
    reached.set(group, item);
    mark(group);
  });
  place.addEventListener("keydown", (event) => {
    const item = event.target.closest("[data-item]");
    const group = item?.closest("[data-walk]");
    if (!group) return;
    if (event.key === "Escape") tip.hide();
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    const next = nextOf(group, item, ...STEPS[event.key]);
    if (!next) return;
    if (group.dataset.walk === "choose") next.click();
    next.focus();
  });

  function nextOf(group, item, down, right) {
    if (group.dataset.walk !== "grid") {
      const items = itemsOf(group);
      return items[(items.indexOf(item) + down + right + items.length) % items.length];
    }
    const row = [...group.children].indexOf(item.parentNode) + down;
    const column = [...item.parentNode.children].indexOf(item) + right;
    const next = group.children[row]?.children[column];
    return next?.hasAttribute("data-item") ? next : null;
  }

  function mark(group) {
    const items = itemsOf(group);
    const chosen =
      group.dataset.walk === "choose"
        ? items.find((item) => item.getAttribute("aria-checked") === "true")
        : items.find((item) => item.getAttribute("data-item") === reached.get(group));
    for (const item of items) put(item, "tabindex", item === (chosen ?? items[0]) ? "0" : "-1");
  }

  function update() {
    for (const group of place.querySelectorAll("[data-walk]")) mark(group);
  }

  return { update };
}
