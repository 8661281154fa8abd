// slider.js: a chart whose marks are walked by arrow keys or pointed at, one at a time.
//
// The chart has the role of a slider, its rows have `data-row`, and the children of a row
// that have a tip are its marks.

import { draw, put } from "./dom.js";
import { propertyOf, toldAt } from "./patch.js";
import { sayTip } from "./tip.js";

const REACH_PX = 4; // so far beside a thin mark it is still pointed at

export function makeSlider(place, tip) {
  const ring = draw("rect", { class: "mpreg-call-ring", rx: 3, fill: "none" });
  let chosen = null; // a mark
  let last = null; // the row and the place of the mark, to find what stands there now

  const chartOf = () => place.querySelector("[role=slider]");
  const rowsOf = (chart) => [...chart.querySelectorAll("[data-row]")];
  const marksOf = (row) => [...row.children].filter((part) => propertyOf(part, "tip"));
  const middleOf = (mark) => {
    const box = mark.getBoundingClientRect();
    return box.left + box.width / 2;
  };

  place.addEventListener("pointermove", (event) => {
    const chart = event.target.closest("[role=slider]");
    if (chart !== null) choose(chart, at(chart, event));
    else if (chosen !== null) choose(chartOf(), null);
  });
  place.addEventListener("pointerleave", () => choose(chartOf(), null));
  place.addEventListener("focusin", (event) => {
    const chart = event.target;
    if (chart !== chartOf() || !chart.matches(":focus-visible")) return;
    choose(chart, chosen ?? newest(chart));
  });
  place.addEventListener("focusout", (event) => {
    if (event.target === chartOf()) choose(event.target, null);
  });
  place.addEventListener("keydown", (event) => {
    const chart = event.target;
    if (chart !== chartOf()) return;
    if (event.key === "Escape") choose(chart, null);
    const here = chosen ?? newest(chart);
    const next = here === null ? undefined : stepFrom(chart, here, event.key);
    if (next === undefined) return;
    event.preventDefault();
    choose(chart, next);
  });

  // The mark under the pointer, or the nearest in its row.
  function at(chart, { target, clientX, clientY }) {
    const mark = toldAt(target, chart);
    if (mark !== null) return mark;
    const row = rowsOf(chart).find((one) => {
      const box = one.getBoundingClientRect();
      return clientY >= box.top - 1.5 && clientY <= box.bottom + 1.5;
    });
    let [nearest, least] = [null, REACH_PX];
    for (const one of row ? marksOf(row) : []) {
      const box = one.getBoundingClientRect();
      const away = Math.max(box.left - clientX, clientX - box.right, 0);
      if (away <= least) [nearest, least] = [one, away];
    }
    return nearest;
  }

  // The last mark that has figures, of the first row that has marks.
  function newest(chart) {
    const marks = marksOf(rowsOf(chart).find((row) => row.firstChild !== null) ?? chart);
    return marks.findLast((mark) => propertyOf(mark, "tip")[1].length > 0) ?? marks.at(-1) ?? null;
  }

  // Left and right go through the marks of a row, up and down to the next that has any.
  function stepFrom(chart, mark, key) {
    const marks = marksOf(mark.parentNode);
    const [here, end] = [marks.indexOf(mark), marks.length - 1];
    const ways = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: end };
    if (key in ways) return marks[Math.max(0, Math.min(end, ways[key]))];
    if (key !== "ArrowUp" && key !== "ArrowDown") return undefined;
    const rows = rowsOf(chart).filter((row) => marksOf(row).length > 0);
    const row = rows[rows.indexOf(mark.parentNode) + (key === "ArrowUp" ? -1 : 1)];
    return row === undefined ? mark : nearestTo(marksOf(row), middleOf(mark), middleOf);
  }

  function nearestTo(marks, wanted, placeOf) {
    const away = marks.map((mark) => Math.abs(placeOf(mark) - wanted));
    return marks[away.indexOf(Math.min(...away))];
  }

  function choose(chart, mark) {
    if (chosen !== mark && chosen !== null) put(chosen, "data-chosen", false);
    chosen = mark;
    last = mark && { row: propertyOf(mark.parentNode, "key"), x: xOf(mark) };
    if (chart !== null) show(chart);
    if (chosen === null) tip.hide(chart);
    else tip.show(chart, () => propertyOf(chosen, "tip"), () => chosen.getBoundingClientRect());
  }

  const xOf = (mark) => Number.parseFloat(mark.getAttribute("x"));

  function show(chart) {
    const spoken = chosen ?? newest(chart);
    const marks = spoken === null ? [] : marksOf(spoken.parentNode);
    put(chart, "aria-valuemin", 0);
    put(chart, "aria-valuemax", Math.max(0, marks.length - 1));
    put(chart, "aria-valuenow", Math.max(0, marks.indexOf(spoken)));
    put(chart, "aria-valuetext", spoken && sayTip(propertyOf(spoken, "tip"), chart));
    if (chosen === null || chosen.tagName !== "rect") ring.remove();
    if (chosen === null) return;
    put(chosen, "data-chosen", true);
    if (chosen.tagName !== "rect") return;
    for (const side of ["x", "y", "width", "height"]) put(ring, side, chosen.getAttribute(side));
    chosen.parentNode.parentNode.append(ring);
  }

  // The mark that was chosen may be another one in the next picture.
  function update() {
    const chart = chartOf();
    if (chosen !== null && !chosen.isConnected) {
      const row = chart && rowsOf(chart).find((one) => propertyOf(one, "key") === last.row);
      const marks = row ? marksOf(row) : [];
      chosen = marks.length ? nearestTo(marks, last.x, xOf) : null;
      if (chosen === null) tip.hide(chart);
    }
    if (chart !== null) show(chart);
  }

  return { update };
}
