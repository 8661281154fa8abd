// sorting.js: tables whose heads sort. kept.sort is { key, down }; null: the order that
// the kernel gave.

import { byName, order, put } from "./dom.js";
import { propertyOf } from "./patch.js";

export function makeSorting(place, kept) {
  const given = new WeakMap(); // tbody -> its rows in the order that the kernel gave
  let held = "";

  place.addEventListener("click", (event) => {
    const button = event.target.closest("thead button");
    if (button === null) return;
    const key = button.closest("th").dataset.column;
    const firstDown = button.dataset.first === "down";
    const now = kept.sort;
    if (now?.key !== key) kept.sort = { key, down: firstDown };
    else if (now.down === firstDown) kept.sort = { key, down: !firstDown };
    else kept.sort = null;
    for (const body of place.querySelectorAll(".mpreg-table tbody")) {
      order(body, arrange(body, given.get(body) ?? []));
    }
    update();
  });

  // Rows do not run away from under the pointer; a new order is obeyed at once.
  function arrange(parent, nodes) {
    if (nodes.length === 0 || !propertyOf(nodes[0], "sort")) return nodes;
    given.set(parent, nodes);
    const sort = JSON.stringify(kept.sort);
    const hold = sort === held && parent.matches(":hover");
    held = sort;
    if (!hold) return sorted(nodes);
    const standing = [...parent.children].filter((row) => nodes.includes(row));
    return [...standing, ...nodes.filter((row) => !standing.includes(row))];
  }

  function sorted(rows) {
    if (!kept.sort) return rows;
    const { key, down } = kept.sort;
    const value = new Map(rows.map((row) => [row, propertyOf(row, "sort")[key]]));
    return [...rows].sort((left, right) => compare(value.get(left), value.get(right), down ? -1 : 1));
  }

  function update() {
    for (const button of place.querySelectorAll("thead button")) {
      const head = button.closest("th");
      const chosen = kept.sort?.key === head.dataset.column;
      put(head, "aria-sort", chosen ? (kept.sort.down ? "descending" : "ascending") : null);
      button.lastChild.textContent = chosen ? (kept.sort.down ? "▼" : "▲") : "";
    }
  }

  return { arrange, update };
}

// What has no value comes last, whichever way the column is sorted.
function compare(left, right, sign) {
  const [noLeft, noRight] = [left ?? null, right ?? null].map((value) => value === null);
  if (noLeft || noRight) return Number(noLeft) - Number(noRight);
  return sign * (typeof left === "string" ? byName(left, right) : left - right);
}
