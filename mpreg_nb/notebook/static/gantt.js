// gantt.js: when each step ran and where: a row for each node, a bar for each step.

import { draw, fitted, keyedList, make, put, textWidth, write } from "./dom.js";
import { byName, milliseconds, NOTHING } from "./figures.js";
import { shapeOf, stepLook } from "./marks.js";
import { linearTicks, tickText } from "./axis.js";

const ROW_PX = 24;
const BAR_PX = 18;
const TOP_PX = 8;
const AXIS_PX = 34;
const RIGHT_PX = 14;
const BAR_FONT = "11px system-ui, sans-serif";
const NAME_FONT = "12px system-ui, sans-serif";

export function makeGantt({ tip, kept }) {
  const grid = draw("g", { class: "mpreg-grid" });
  const barLayer = draw("g");
  const image = draw(
    "svg",
    { class: "mpreg-gantt", role: "group", "aria-label": "Steps by node over time" },
    grid,
    barLayer,
  );
  const element = make("div", { class: "mpreg-figure" }, image);
  const bars = keyedList(barLayer, () => makeStepBar());

  function makeStepBar() {
    const body = draw("rect", { rx: 3, height: BAR_PX, class: "mpreg-gantt-bar" });
    const shape = shapeOf();
    const mark = draw("g", {}, shape.element);
    const label = draw("text", { class: "mpreg-gantt-label", y: BAR_PX / 2 + 4 });
    const element = draw("g", { role: "img" }, body, mark, label);
    let bar = null;
    tip.tell(element, () => ({
      title: bar.step,
      rows: [
        ["status", bar.status],
        ["node", bar.node || NOTHING],
        ["started after", milliseconds(bar.start_ms)],
        ["took", milliseconds(bar.until_ms - bar.start_ms)],
      ],
      note: bar.end_ms === null ? "Still running." : "",
    }));
    element.addEventListener("keydown", (event) => stepOn(event, bar.key));

    function update(now) {
      bar = now;
      const look = stepLook(bar.status);
      put(element, "class", `mpreg-gantt-step mpreg-tone-${look.tone}`);
      put(element, "transform", `translate(${bar.x.toFixed(1)} ${bar.y})`);
      put(element, "data-status", bar.status);
      put(element, "tabindex", bar.key === kept.bar ? "0" : "-1");
      put(
        element,
        "aria-label",
        `${bar.step} on ${bar.node || NOTHING}: ${bar.status}, ` +
          `${milliseconds(bar.until_ms - bar.start_ms)}`,
      );
      put(body, "width", bar.width.toFixed(1));
      shape.update(look);
      // In the bar, or to the right of it where only there it fits.
      const [within, beside] = [bar.width - 24, bar.room - 24];
      const needed = textWidth(bar.step, BAR_FONT);
      const inside = needed <= within || (beside < needed && within >= beside);
      const wide = inside ? within : beside;
      const shown = wide > 24;
      put(mark, "transform", `translate(${inside ? 5 : bar.width + 4} ${BAR_PX / 2 - 4.5}) scale(.75)`);
      mark.style.display = shown ? "" : "none";
      put(label, "x", inside ? 19 : bar.width + 18);
      write(label, shown ? fitted(bar.step, wide, BAR_FONT) : "");
    }

    return { element, update };
  }

  // Arrow keys go from bar to bar; Tab leaves the chart.
  function stepOn(event, key) {
    const keys = [...bars.parts.keys()];
    const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Escape") tip.hide();
    if (!(event.key in ways)) return;
    event.preventDefault();
    const place = keys.indexOf(key) + ways[event.key] + keys.length;
    kept.bar = keys[place % keys.length];
    put(bars.parts.get(key).element, "tabindex", "-1");
    put(bars.parts.get(kept.bar).element, "tabindex", "0");
    bars.parts.get(kept.bar).element.focus();
  }

  function update(items, durationMs, width) {
    element.hidden = items.length === 0;
    if (items.length === 0 || width < 80) return;
    const until = (bar) => Math.max(bar.start_ms, bar.end_ms ?? durationMs);
    const most = Math.max(durationMs, ...items.map(until), 1);
    const ticks = linearTicks(most, Math.max(2, Math.floor(width / 130)));
    const nodes = [...new Set(items.map((bar) => bar.node))].sort((left, right) =>
      byName(left ?? "", right ?? ""),
    );
    const names = nodes.map((node) => fitted(node || NOTHING, width * 0.22, NAME_FONT));
    const left = 14 + Math.max(...names.map((name) => textWidth(name, NAME_FONT)));
    const room = width - left - RIGHT_PX;
    const xOf = (ms) => left + (ms / most) * room;
    const placed = inLanes(items, { nodes, until, xOf, right: width - RIGHT_PX });
    const rows = placed.lanes.reduce((sum, lanes) => sum + lanes, 0);
    const bottom = TOP_PX + rows * ROW_PX;
    put(image, "width", width);
    put(image, "height", bottom + AXIS_PX);
    put(image, "viewBox", `0 0 ${width} ${bottom + AXIS_PX}`);
    drawGrid({ ticks, most, xOf, names, lanes: placed.lanes, left, bottom, right: width - RIGHT_PX });
    const keys = placed.bars.map((bar) => bar.key);
    if (!keys.includes(kept.bar)) kept.bar = keys[0];
    bars.update(placed.bars, (bar) => bar.key);
  }

  function drawGrid({ ticks, most, xOf, names, lanes, left, bottom, right }) {
    grid.replaceChildren();
    let y = TOP_PX;
    names.forEach((name, index) => {
      const height = lanes[index] * ROW_PX;
      const stripe = { x: left, y, width: right - left, height, class: "mpreg-stripe" };
      if (index % 2 === 0) grid.append(draw("rect", stripe));
      grid.append(
        draw("text", {
          x: left - 8,
          y: y + height / 2 + 4,
          "text-anchor": "end",
          class: "mpreg-gantt-node",
          text: name,
        }),
      );
      y += height;
    });
    const unit = most >= 2000 ? "s" : "ms";
    for (const tick of ticks) {
      if (tick > most * 1.001) continue;
      const x = xOf(tick).toFixed(1);
      const text = tick === 0 ? "0" : `${tickText(unit === "s" ? tick / 1000 : tick)} ${unit}`;
      grid.append(
        draw("line", { x1: x, x2: x, y1: TOP_PX, y2: bottom + 4 }),
        draw("text", { x, y: bottom + 17, "text-anchor": "middle", text }),
      );
    }
    const title = "time since the run started";
    grid.append(draw("text", { x: right, y: bottom + 31, "text-anchor": "end", text: title }));
  }

  return { element, update };
}

// Bars of one node that overlap go to lanes below each other. Returns the placed bars,
// with the `room` to the right of each, and how many lanes each node has.
function inLanes(items, { nodes, until, xOf, right }) {
  const bars = [];
  const lanes = [];
  let row = 0;
  for (const node of nodes) {
    const ends = []; // of each lane: the moment that it is free again
    const last = []; // of each lane: the bar that was put there last
    const own = items.filter((bar) => bar.node === node);
    own.sort((left, right) => left.start_ms - right.start_ms);
    const seen = new Map();
    for (const bar of own) {
      const free = ends.findIndex((end) => end <= bar.start_ms);
      const lane = free < 0 ? ends.length : free;
      const x = xOf(bar.start_ms);
      const width = Math.max(3, xOf(until(bar)) - x);
      const y = TOP_PX + (row + lane) * ROW_PX + (ROW_PX - BAR_PX) / 2;
      const times = (seen.get(bar.step) ?? 0) + 1;
      seen.set(bar.step, times);
      const key = JSON.stringify([node, bar.step, times]);
      const placed = { ...bar, until_ms: until(bar), x, y, width, room: right - x - width, key };
      if (last[lane]) last[lane].room = x - (last[lane].x + last[lane].width);
      ends[lane] = until(bar);
      last[lane] = placed;
      bars.push(placed);
    }
    lanes.push(Math.max(1, ends.length));
    row += Math.max(1, ends.length);
  }
  return { bars, lanes };
}
