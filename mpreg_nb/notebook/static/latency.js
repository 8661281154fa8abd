// latency.js: how long calls took over time, and where the time went.

import { make } from "./dom.js";
import { count, milliseconds } from "./figures.js";
import { makeChoice, makeEmpty } from "./controls.js";
import { makeTable } from "./table.js";
import { makeChart } from "./chart.js";

export function latencyView({ tip, kept, redraw, widthOf }) {
  const empty = makeEmpty("No calls yet. Make one:", "train.call(rows)");
  const choice = makeChoice({
    label: "Axis",
    values: [
      ["log", "log"],
      ["linear", "linear"],
    ],
    choose: (axis) => {
      kept.axis = axis;
      redraw();
    },
  });
  const chart = makeChart({ tip, redraw });
  const numbers = [
    ["mean_ms", "Mean", "Arithmetic mean"],
    ["p50_ms", "p50", "Half of the calls were faster"],
    ["p95_ms", "p95", "95 of 100 calls were faster"],
    ["p99_ms", "p99", "99 of 100 calls were faster"],
    ["max_ms", "Max", "The slowest call"],
  ];
  const table = makeTable({
    label: "Latency by function",
    columns: [
      {
        key: "function",
        word: "Function",
        hint: "Sort by name",
        sort: (row) => row.function,
        cell: () => cellOf("mpreg-name", (row) => row.function),
      },
      {
        key: "count",
        word: "Calls",
        hint: "Calls of this notebook",
        number: true,
        sort: (row) => row.count,
        cell: () => cellOf("mpreg-number", (row) => count(row.count)),
      },
      ...numbers.map(([key, word, hint]) => ({
        key,
        word,
        hint,
        number: true,
        sort: (row) => row[key],
        cell: () => cellOf("mpreg-number", (row) => milliseconds(row[key])),
      })),
    ],
    keyOf: (row) => row.function,
    kept,
    redraw,
  });
  const bar = make("div", { class: "mpreg-toolbar" }, choice.element, chart.legend);

  function cellOf(className, words) {
    const element = make("span", { class: className });
    return {
      element,
      update: (row) => {
        const text = words(row);
        if (element.textContent === text) return;
        element.textContent = text;
        if (className === "mpreg-name") element.title = text;
      },
    };
  }

  function update(picture) {
    const buckets = picture.buckets ?? [];
    const functions = picture.functions ?? [];
    const some = buckets.some((bucket) => bucket.calls > 0) || functions.length > 0;
    empty.hidden = some;
    for (const part of [bar, chart.element, table.element]) part.hidden = !some;
    if (!some) return;
    choice.update(kept.axis);
    chart.update({
      buckets,
      bucketS: picture.bucket_s ?? 2,
      width: widthOf(),
      logarithmic: kept.axis === "log",
    });
    table.update(functions);
  }

  return { elements: [empty, bar, chart.element, table.element], update, resized: true };
}
