// table.js: a table with headers that sort, whose cells change in place.

import { keyedList, make, ownId, put } from "./dom.js";
import { byName } from "./figures.js";

// columns: { key, word, hint, number, sort(row), cell() -> { element, update(row) } }.
//   The first is the header of its row; `sort` missing: the column does not sort.
// kept.sort: { key, down }, kept beyond this table; null: the order that came.
export function makeTable({ label, columns, keyOf, kept, redraw }) {
  const heads = new Map();
  const headRow = make("tr");
  for (const column of columns) {
    const head = make("th", { scope: "col", class: column.number ? "mpreg-right" : null });
    put(head, "data-column", column.key);
    if (column.sort) {
      const arrow = make("span", { class: "mpreg-arrow", "aria-hidden": "true" });
      head.append(
        make(
          "button",
          { type: "button", title: column.hint, onclick: () => turn(column) },
          make("span", { text: column.word }),
          arrow,
        ),
      );
      heads.set(column.key, { head, arrow });
    } else {
      head.append(make("span", { text: column.word, title: column.hint }));
    }
    headRow.append(head);
  }
  const body = make("tbody");
  const caption = make("caption", { class: "mpreg-hidden", text: label });
  const table = make("table", { class: "mpreg-table" }, caption, make("thead", {}, headRow));
  table.append(body);
  const element = make("div", { class: "mpreg-scroll", role: "group", "aria-label": label }, table);
  const rows = keyedList(body, () => makeRow(columns));
  let held = "";

  function turn(column) {
    const now = kept.sort;
    const firstDown = Boolean(column.number);
    if (now?.key !== column.key) kept.sort = { key: column.key, down: firstDown };
    else if (now.down === firstDown) kept.sort = { key: column.key, down: !firstDown };
    else kept.sort = null;
    redraw();
  }

  function sorted(items) {
    const column = columns.find(({ key }) => key === kept.sort?.key);
    if (!column) return items;
    const sign = kept.sort.down ? -1 : 1;
    const value = new Map(items.map((item) => [item, column.sort(item)]));
    return [...items].sort((left, right) => compare(value.get(left), value.get(right), sign));
  }

  function update(items) {
    for (const [key, { head, arrow }] of heads) {
      const chosen = kept.sort?.key === key;
      const way = kept.sort?.down ? "descending" : "ascending";
      put(head, "aria-sort", chosen ? way : null);
      arrow.textContent = chosen ? (kept.sort.down ? "▼" : "▲") : "";
    }
    // Rows do not run away from under the pointer; a new order is obeyed at once.
    const now = JSON.stringify(kept.sort);
    rows.update(sorted(items), keyOf, { hold: now === held && body.matches(":hover") });
    held = now;
  }

  return { element, table, update };
}

function makeRow(columns) {
  const element = make("tr");
  const cells = columns.map((column, index) => {
    const id = index === 0 ? ownId("row") : null;
    const holder = make(index === 0 ? "th" : "td", {
      scope: index === 0 ? "row" : null,
      id,
      class: column.number ? "mpreg-right" : null,
      "data-column": column.key,
    });
    const cell = column.cell();
    holder.append(cell.element);
    element.append(holder);
    return cell;
  });
  return {
    element,
    update: (row) => cells.forEach((cell) => cell.update(row)),
  };
}

// What has no value comes last, whichever way the column is sorted.
function compare(left, right, sign) {
  const [noLeft, noRight] = [left ?? null, right ?? null].map((value) => value === null);
  if (noLeft || noRight) return Number(noLeft) - Number(noRight);
  return sign * (typeof left === "string" ? byName(left, right) : left - right);
}
