// calls.js: what each slot of each node ran in the last minute, a row for each slot and
// a bar for each call, coloured by function.

import { draw, fitted, make, put, textWidth, write } from "./dom.js";
import { count, counted, milliseconds } from "./figures.js";
import { makeEmpty } from "./controls.js";

const LOWEST_ROW_PX = 15;
const HIGHEST_ROW_PX = 27;
const ALL_ROWS_PX = 330; // rows are as high as this has room for
const CALL_GAP_PX = 7; // between two nodes
const CALL_TOP_PX = 4;
const CALL_AXIS_PX = 24;
const CALL_RIGHT_PX = 12;
const REACH_PX = 4; // so far beside a thin bar it is still pointed at
const CALL_NAME_FONT = "12px system-ui, sans-serif";
const MOST_KEYS = 16;
const CROSS = "M-3 -3l6 6M3 -3l-6 6";

export function callsView({ tip, kept, redraw, widthOf }) {
  const empty = makeEmpty("No calls in the last minute. Make one:", "train.call(rows)");
  const legend = make("div", { class: "mpreg-legend mpreg-toolbar" });
  const rows = draw("g");
  const bars = draw("g");
  const ring = draw("rect", { class: "mpreg-call-ring", rx: 3, fill: "none" });
  const image = draw(
    "svg",
    {
      class: "mpreg-calls",
      tabindex: "0",
      role: "slider",
      "aria-label": "Calls by slot: a call",
      "aria-orientation": "horizontal",
    },
    rows,
    bars,
    ring,
  );
  const scroll = make("div", { class: "mpreg-scroll mpreg-figure" }, image);
  const axis = draw("svg", { class: "mpreg-calls mpreg-grid", "aria-hidden": "true" });
  let slots = []; // { node, slot, y, bars: [{ x, width, ...bar }] }
  let names = [];
  let rowPx = LOWEST_ROW_PX;
  let chosen = null; // { slot, bar }: indexes in `slots` and in its bars

  image.addEventListener("pointermove", (event) => {
    const frame = image.getBoundingClientRect();
    choose(at(event.clientX - frame.left, event.clientY - frame.top));
  });
  image.addEventListener("pointerleave", () => choose(null));
  image.addEventListener("focus", () => {
    if (image.matches(":focus-visible")) choose(chosen ?? newest());
  });
  image.addEventListener("blur", () => choose(null));
  image.addEventListener("keydown", (event) => {
    if (event.key === "Escape") choose(null);
    const here = chosen ?? newest();
    if (here === null) return;
    const next = stepFrom(here, event.key);
    if (next === undefined) return;
    event.preventDefault();
    choose(next);
  });

  const barPx = () => rowPx - 3;

  // The bar at a place, or the nearest in its row.
  function at(x, y) {
    const slot = slots.findIndex((row) => y >= row.y && y < row.y + rowPx);
    if (slot < 0) return null;
    const away = slots[slot].bars.map((bar) => Math.max(bar.x - x, x - bar.x - bar.width, 0));
    const bar = away.indexOf(Math.min(...away));
    return bar >= 0 && away[bar] <= REACH_PX ? { slot, bar } : null;
  }

  function newest() {
    const slot = slots.findIndex((row) => row.bars.length > 0);
    return slot < 0 ? null : { slot, bar: slots[slot].bars.length - 1 };
  }

  // Left and right go through the calls of a slot, up and down to the next that has any.
  function stepFrom({ slot, bar }, key) {
    const last = slots[slot].bars.length - 1;
    const ways = { ArrowLeft: bar - 1, ArrowRight: bar + 1, Home: 0, End: last };
    if (key in ways) return { slot, bar: Math.max(0, Math.min(last, ways[key])) };
    if (key !== "ArrowUp" && key !== "ArrowDown") return undefined;
    const way = key === "ArrowUp" ? -1 : 1;
    let next = slot + way;
    while (slots[next] !== undefined && slots[next].bars.length === 0) next += way;
    if (slots[next] === undefined) return { slot, bar };
    const middle = middleOf(slots[slot].bars[bar]);
    const away = slots[next].bars.map((other) => Math.abs(middleOf(other) - middle));
    return { slot: next, bar: away.indexOf(Math.min(...away)) };
  }

  function choose(next) {
    chosen = next;
    kept.at = next === null ? null : momentOf(next);
    drawChosen();
    if (chosen === null) tip.hide(image);
    else tip.show(image, () => figuresOf(chosen), () => boxOf(chosen));
  }

  function momentOf({ slot, bar }) {
    const row = slots[slot];
    return { node: row.node, slot: row.slot, start_s: row.bars[bar].start_s };
  }

  // The call that was chosen stands elsewhere in the next picture.
  function findChosen() {
    if (kept.at === null) return null;
    const slot = slots.findIndex((row) => row.node === kept.at.node && row.slot === kept.at.slot);
    if (slot < 0 || slots[slot].bars.length === 0) return null;
    const away = slots[slot].bars.map((bar) => Math.abs(bar.start_s - kept.at.start_s));
    return { slot, bar: away.indexOf(Math.min(...away)) };
  }

  function drawChosen() {
    ring.style.display = chosen === null ? "none" : "";
    const spoken = chosen ?? newest();
    put(image, "aria-valuemin", 0);
    put(image, "aria-valuemax", spoken === null ? 0 : slots[spoken.slot].bars.length - 1);
    put(image, "aria-valuenow", spoken === null ? 0 : spoken.bar);
    put(image, "aria-valuetext", spoken === null ? null : sayBar(spoken));
    if (chosen === null) return;
    const { x, width } = slots[chosen.slot].bars[chosen.bar];
    put(ring, "x", (x - 1.5).toFixed(1));
    put(ring, "y", slots[chosen.slot].y - 0.5);
    put(ring, "width", (width + 3).toFixed(1));
    put(ring, "height", barPx() + 3);
  }

  function boxOf({ slot, bar }) {
    const frame = image.getBoundingClientRect();
    const { x, width } = slots[slot].bars[bar];
    const top = frame.top + slots[slot].y;
    return { left: frame.left + x, top, width, height: barPx(), bottom: top + barPx() };
  }

  function figuresOf({ slot, bar }) {
    const { node, slot: number, bars: own } = slots[slot];
    const call = own[bar];
    const several = call.calls > 1;
    const others = call.others ? `, and ${counted(call.others, "other")}` : "";
    return {
      title: `${names[call.function]}${others}`,
      rows: [
        ...(call.step ? [["step", call.step]] : []),
        ["node", node],
        ["slot", count(number)],
        ["status", call.status],
        ...(several ? [["calls", count(call.calls)]] : []),
        ...(several && call.failed ? [["failed", count(call.failed)]] : []),
        [call.status === "running" ? "runs for" : "ran", milliseconds(call.busy_ms)],
        ["began", `${milliseconds(-call.start_ms)} ago`],
      ],
      note: several ? "Short calls that followed each other." : "",
    };
  }

  function sayBar(where) {
    const { title, rows: figures } = figuresOf(where);
    return `${title}: ${figures.map(([name, value]) => `${name} ${value}`).join(", ")}`;
  }

  function update(picture) {
    const functions = picture.functions ?? [];
    const some = functions.length > 0;
    empty.hidden = some;
    for (const part of [legend, scroll, axis]) part.hidden = !some;
    axis.style.display = some ? "" : "none";
    const width = widthOf();
    if (!some || width < 80) return;
    names = functions.map((one) => one.function);
    drawLegend(picture, functions);
    place(picture, width);
    chosen = findChosen();
    drawChosen();
  }

  function place(picture, width) {
    const nodes = picture.nodes ?? [];
    const words = nodes.map(({ node }) => fitted(node, width * 0.2, CALL_NAME_FONT));
    const left = 12 + Math.max(40, ...words.map((word) => textWidth(word, CALL_NAME_FONT)));
    const room = Math.max(40, width - left - CALL_RIGHT_PX);
    const windowMs = 1000 * (picture.window_s ?? 60);
    const xOf = (ms) => left + room * (1 + Math.max(-windowMs, ms) / windowMs);
    const number = nodes.reduce((sum, node) => sum + node.slots.length, 0);
    const fitting = Math.floor((ALL_ROWS_PX - nodes.length * CALL_GAP_PX) / Math.max(1, number));
    rowPx = Math.max(LOWEST_ROW_PX, Math.min(HIGHEST_ROW_PX, fitting));
    slots = [];
    rows.replaceChildren();
    const drawn = document.createDocumentFragment();
    let y = CALL_TOP_PX;
    nodes.forEach((node, index) => {
      const height = node.slots.length * rowPx;
      rows.append(
        draw("text", {
          x: left - 8,
          y: y + height / 2 + 3,
          "text-anchor": "end",
          class: "mpreg-gantt-node",
          text: words[index],
        }),
      );
      node.slots.forEach((own, place) => {
        const ground = { x: left, y, width: room, height: barPx() + 1, class: "mpreg-stripe" };
        rows.append(draw("rect", ground));
        const placed = own.map((bar) => {
          const x = xOf(bar.start_ms);
          const start_s = (picture.now_s ?? 0) + bar.start_ms / 1000;
          return { ...bar, x, width: Math.max(1.5, xOf(bar.end_ms) - x), start_s };
        });
        for (const bar of placed) drawBar(drawn, bar, y, functionHue(picture, bar));
        slots.push({ node: node.node, slot: place + 1, y, bars: placed });
        y += rowPx;
      });
      y += CALL_GAP_PX;
    });
    bars.replaceChildren(drawn);
    put(image, "width", width);
    put(image, "height", y);
    put(image, "viewBox", `0 0 ${width} ${y}`);
    drawAxis(width, windowMs, xOf);
  }

  function functionHue(picture, bar) {
    return picture.functions[bar.function].hue;
  }

  function drawBar(drawn, bar, y, hue) {
    const span = Math.max(bar.end_ms - bar.start_ms, 0.001);
    // Short calls in one bar: the paler, the longer the slot was idle between them.
    const busy = bar.calls > 1 ? 0.35 + 0.65 * Math.min(1, bar.busy_ms / span) : 1;
    drawn.append(
      draw("rect", {
        x: bar.x.toFixed(1),
        y: y + 0.5,
        width: bar.width.toFixed(1),
        height: barPx(),
        rx: bar.width > 6 ? 2 : 0,
        class: `mpreg-call mpreg-hue-${hue}`,
        "data-status": bar.status,
        "fill-opacity": busy < 1 ? busy.toFixed(2) : null,
      }),
    );
    if (bar.failed) {
      const middle = `translate(${(bar.x + bar.width / 2).toFixed(1)} ${y + barPx() / 2 + 0.5})`;
      drawn.append(
        draw("circle", { r: 5.5, transform: middle, class: "mpreg-call-failed-ground" }),
        draw("path", { d: CROSS, transform: middle, class: "mpreg-call-failed" }),
      );
    }
  }

  function drawAxis(width, windowMs, xOf) {
    put(axis, "width", width);
    put(axis, "height", CALL_AXIS_PX);
    put(axis, "viewBox", `0 0 ${width} ${CALL_AXIS_PX}`);
    axis.replaceChildren();
    const everyMs = width < 520 ? 20000 : 10000;
    for (let ms = 0; ms <= windowMs; ms += everyMs) {
      const x = xOf(-ms).toFixed(1);
      const text = ms === 0 ? "now" : `−${ms / 1000} s`;
      axis.append(
        draw("line", { x1: x, x2: x, y1: 0, y2: 5 }),
        draw("text", { x, y: 18, "text-anchor": ms === 0 ? "end" : "middle", text }),
      );
    }
  }

  function drawLegend(picture, functions) {
    const statuses = new Set(
      (picture.nodes ?? []).flatMap((node) => node.slots.flat().map((bar) => bar.status)),
    );
    const keys = functions.slice(0, MOST_KEYS).map(({ function: name, hue, calls, busy_ms }) =>
      makeKey(name, `${counted(calls, "call")}, ${milliseconds(busy_ms)} in all`, [
        draw("rect", { width: 12, height: 12, rx: 2, class: `mpreg-call mpreg-hue-${hue}` }),
      ]),
    );
    const rest = functions.length - MOST_KEYS;
    if (rest > 0) keys.push(make("span", { text: `+${count(rest)}`, class: "mpreg-soft" }));
    if (statuses.has("failed") || statuses.has("lost")) {
      keys.push(
        makeKey("failed", "", [
          draw("path", { d: CROSS, transform: "translate(6 6)", class: "mpreg-call-failed" }),
        ]),
      );
    }
    for (const status of ["running", "cancelled"]) {
      if (!statuses.has(status)) continue;
      const box = { x: 0.75, y: 0.75, width: 10.5, height: 10.5, class: "mpreg-call mpreg-call-key" };
      keys.push(makeKey(status, "", [draw("rect", { ...box, "data-status": status })]));
    }
    legend.replaceChildren(...keys);
  }

  return { elements: [empty, legend, scroll, axis], update };
}

function middleOf(bar) {
  return bar.x + bar.width / 2;
}

function makeKey(word, title, parts) {
  const text = make("span", { class: "mpreg-name" });
  write(text, word);
  return make(
    "span",
    { class: "mpreg-badge", title: title ? `${word}: ${title}` : null },
    draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, ...parts),
    text,
  );
}
