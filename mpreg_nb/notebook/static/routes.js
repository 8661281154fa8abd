// routes.js: which function ran on which node, as a heat map with figures in its cells.

import { keyedList, make, put, write } from "./dom.js";
import { count, counted, milliseconds, percent, NOTHING } from "./figures.js";
import { makeChoice, makeEmpty } from "./controls.js";

const MEASURES = {
  calls: { word: "calls", value: (cell) => cell.calls, say: (cell) => count(cell.calls) },
  share: { word: "share", value: (cell) => cell.share, say: (cell) => percent(100 * cell.share) },
  p50: { word: "median time", value: (cell) => cell.p50_ms, say: (cell) => milliseconds(cell.p50_ms) },
  errors: { word: "errors", value: (cell) => cell.errors, say: (cell) => count(cell.errors) },
};
const TURNED_HEADS = 10; // with more nodes their names stand upright

export function routesView({ tip, kept, redraw }) {
  const empty = makeEmpty("No calls yet. Make one:", "train.call(rows)");
  const choice = makeChoice({
    label: "Show",
    values: Object.entries(MEASURES).map(([key, { word }]) => [key, word]),
    choose: (key) => {
      kept.measure = key;
      redraw();
    },
  });
  const scale = makeScale();
  const bar = make("div", { class: "mpreg-toolbar" }, choice.element, scale.element);
  const corner = make("th", { scope: "col", class: "mpreg-corner" }, make("span", { text: "Function" }));
  const headRow = make("tr", {}, corner);
  const body = make("tbody");
  const table = make(
    "table",
    { class: "mpreg-heat", role: "grid" },
    make("caption", { class: "mpreg-hidden", text: "Calls by function and node" }),
    make("thead", {}, headRow),
    body,
  );
  const element = make("div", { class: "mpreg-scroll", role: "group", "aria-label": "Heat map" }, table);
  const headLayer = keyedList(headRow, (name) => ({
    element: make(
      "th",
      { scope: "col", title: name, "data-node": name },
      make("span", { text: name }),
    ),
    update: () => {},
  }));
  const rows = keyedList(body, (name) => makeHeatRow(name));
  let measure = MEASURES.calls;
  let most = 0;

  // A row: `update` takes [function, cells, nodes].
  function makeHeatRow(name) {
    const head = make("th", { scope: "row", title: name }, make("span", { text: name }));
    const element = make("tr", {}, head);
    const cells = keyedList(element, (node) => makeHeatCell(name, node));
    // The row's own header stands before the cells, and is none of them.
    cells.parts.set(null, { element: head, update: () => {} });
    return {
      element,
      update: ([, values, nodes]) =>
        cells.update([null, ...nodes.map((node, index) => ({ node, cell: values[index] }))], (item) =>
          item === null ? null : item.node,
        ),
    };
  }

  function makeHeatCell(name, node) {
    const text = make("span", { class: "mpreg-number" });
    const flag = make("span", { class: "mpreg-flag", "aria-hidden": "true" });
    const element = make("td", { role: "gridcell", tabindex: "-1" }, text, flag);
    let cell = null;
    tip.tell(element, () => ({
      title: `${name} on ${node}`,
      rows:
        cell === null
          ? []
          : [
              ["calls", count(cell.calls)],
              ["share", percent(100 * cell.share)],
              ["median", milliseconds(cell.p50_ms)],
              ["errors", count(cell.errors)],
            ],
      note: cell === null ? "No calls from here." : "",
    }));
    element.addEventListener("keydown", step);
    element.addEventListener("focus", () => {
      kept.cell = [name, node];
    });

    function update(item) {
      cell = item.cell ?? null;
      const value = cell === null ? null : (measure.value(cell) ?? null);
      const share = value === null || most === 0 ? 0 : value / most;
      write(text, cell === null ? "·" : value === null ? NOTHING : measure.say(cell));
      write(flag, cell?.errors ? "▲" : "");
      put(element, "class", cell === null ? "mpreg-none" : null);
      put(element, "style", `--mpreg-heat:${(8 + 62 * share).toFixed(0)}%`);
      if (cell === null) put(element, "style", null);
      put(element, "aria-label", cell === null ? `${name} on ${node}: no calls` : sayCell());
      const here = kept.cell?.[0] === name && kept.cell?.[1] === node;
      put(element, "tabindex", here ? "0" : "-1");
    }

    function sayCell() {
      return (
        `${name} on ${node}: ${counted(cell.calls, "call")}, ` +
        `${counted(cell.errors, "error")}, median ${milliseconds(cell.p50_ms)}`
      );
    }

    return { element, update };
  }

  // Arrow keys go from cell to cell; Tab leaves the map.
  function step(event) {
    const ways = {
      ArrowRight: [0, 1],
      ArrowLeft: [0, -1],
      ArrowDown: [1, 0],
      ArrowUp: [-1, 0],
    };
    if (event.key === "Escape") tip.hide();
    if (!(event.key in ways)) return;
    event.preventDefault();
    const [down, right] = ways[event.key];
    const cell = event.currentTarget;
    const row = [...body.children].indexOf(cell.parentNode) + down;
    const column = [...cell.parentNode.children].indexOf(cell) + right;
    const next = body.children[row]?.children[column];
    if (next === undefined || next.tagName !== "TD") return;
    put(cell, "tabindex", "-1");
    put(next, "tabindex", "0");
    next.focus();
  }

  function update(picture) {
    const { functions = [], nodes = [], cells = [] } = picture;
    const some = functions.length > 0 && nodes.length > 0;
    empty.hidden = some;
    bar.hidden = element.hidden = !some;
    measure = MEASURES[kept.measure] ?? MEASURES.calls;
    choice.update(kept.measure);
    const values = cells.flat().flatMap((cell) => (cell ? [measure.value(cell) ?? 0] : []));
    most = Math.max(0, ...values);
    const busiest = cells.flat().find((cell) => cell && (measure.value(cell) ?? 0) === most);
    scale.update(busiest ? measure.say(busiest) : "0", some && most > 0);
    if (!functions.includes(kept.cell?.[0]) || !nodes.includes(kept.cell?.[1])) {
      kept.cell = some ? [functions[0], nodes[0]] : null;
    }
    put(table, "data-turned", nodes.length > TURNED_HEADS);
    headLayer.parts.set(null, { element: corner, update: () => {} });
    headLayer.update([null, ...nodes], (name) => name);
    const items = functions.map((name, index) => [name, cells[index] ?? [], nodes]);
    rows.update(items, ([name]) => name);
  }

  return { elements: [empty, bar, element], update };
}

function makeScale() {
  const most = make("span", { class: "mpreg-number" });
  const steps = [8, 24, 39, 55, 70].map((heat) =>
    make("i", { class: "mpreg-heat-step", style: `--mpreg-heat:${heat}%` }),
  );
  const element = make(
    "span",
    { class: "mpreg-scale mpreg-soft" },
    make("span", { text: "0" }),
    make("span", { class: "mpreg-heat-steps", "aria-hidden": "true" }, ...steps),
    most,
    make("span", { text: "▲ with errors" }),
  );

  function update(words, visible) {
    write(most, words);
    element.hidden = !visible;
  }

  return { element, update };
}
