// chart.js: percentile lines above, parts of the time as stacked bars below, and one
// crosshair over both, moved by pointer or arrow keys.

import { draw, make, ownId, put } from "./dom.js";
import { count, milliseconds } from "./figures.js";
import { linearTicks, logTicks, shareOf, spread, tickText } from "./axis.js";

const PERCENTILES = [
  { key: "p99_ms", word: "p99", dash: "1.5 3.5" },
  { key: "p95_ms", word: "p95", dash: "6 3" },
  { key: "p50_ms", word: "p50", dash: null },
];
// From the bottom of a bar to its top.
const PARTS = [
  { key: "run_ms", word: "run", pattern: null },
  { key: "queued_ms", word: "queued", pattern: "M-1 1l2-2M0 6l6-6M5 7l2-2" },
  { key: "waited_ms", word: "waited", pattern: "M0 0l6 6M6 0l-6 6" },
  { key: "network_ms", word: "network", pattern: "M0 1.5h6M0 4.5h6" },
  { key: "serialize_ms", word: "serialize", pattern: "M1.5 0v6M4.5 0v6" },
];
const LEFT = 58;
const RIGHT = 40;
const LINES = { top: 12, height: 170 };
const BARS = { top: 222, height: 104 };
const HEIGHT = 352;

export function makeChart({ tip, redraw }) {
  const patterns = new Map(PARTS.map(({ key }) => [key, ownId("pattern")]));
  const defs = draw("defs", {}, ...PARTS.filter((p) => p.pattern).map(makePattern));
  const grid = draw("g", { class: "mpreg-grid" });
  const bars = draw("g");
  const lines = draw("g");
  const cross = draw("line", { class: "mpreg-cross" });
  const dots = draw("g");
  const image = draw("svg", {
    class: "mpreg-chart",
    height: HEIGHT,
    tabindex: "0",
    role: "slider",
    "aria-label": "Latency over time: a moment",
    "aria-orientation": "horizontal",
  });
  image.append(defs, grid, bars, lines, cross, dots);
  const element = make("div", { class: "mpreg-figure" }, image);
  let shown = { buckets: [], bucketS: 2, width: 0, logarithmic: true };
  let place = null; // which bucket the crosshair is on

  function makePattern({ key, pattern }) {
    return draw(
      "pattern",
      { id: patterns.get(key), width: 6, height: 6, patternUnits: "userSpaceOnUse" },
      draw("rect", { width: 6, height: 6, class: `mpreg-part mpreg-part-${key}` }),
      draw("path", { d: pattern, class: "mpreg-hatch", fill: "none" }),
    );
  }

  const paint = ({ key, pattern }) => (pattern ? `url(#${patterns.get(key)})` : null);
  const xOf = (index) => LEFT + ((index + 0.5) / shown.buckets.length) * roomOf();
  const roomOf = () => Math.max(50, shown.width - LEFT - RIGHT);

  image.addEventListener("pointermove", (event) => {
    const x = event.clientX - image.getBoundingClientRect().left;
    const number = shown.buckets.length;
    const index = Math.floor(((x - LEFT) / roomOf()) * number);
    point(Math.max(0, Math.min(number - 1, index)));
  });
  image.addEventListener("pointerleave", () => point(null));
  image.addEventListener("focus", () => {
    if (image.matches(":focus-visible")) point(place ?? lastWithCalls());
  });
  image.addEventListener("blur", () => point(null));
  image.addEventListener("keydown", (event) => {
    const last = shown.buckets.length - 1;
    const here = place ?? lastWithCalls();
    const ways = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last };
    if (event.key === "Escape") point(null);
    if (!(event.key in ways)) return;
    event.preventDefault();
    point(Math.max(0, Math.min(last, ways[event.key])));
  });

  function lastWithCalls() {
    const index = shown.buckets.findLastIndex((bucket) => bucket.calls > 0);
    return index < 0 ? shown.buckets.length - 1 : index;
  }

  function point(index) {
    place = shown.buckets.length ? index : null;
    if (place === null) tip.hide(image);
    else tip.show(image, () => figuresAt(place), () => boxAt(place));
    redraw();
  }

  function boxAt(index) {
    const frame = image.getBoundingClientRect();
    const left = frame.left + xOf(index);
    const top = frame.top + LINES.top + 30;
    return { left, top, width: 0, height: 0, bottom: top };
  }

  function figuresAt(index) {
    const bucket = shown.buckets[Math.min(index, shown.buckets.length - 1)];
    const title = sayMoment(bucket.at_s);
    if (!bucket.calls) return { title, note: "No calls." };
    const rows = [...PERCENTILES].reverse().map(({ key, word }) => [word, bucket[key]]);
    const parts = PARTS.map(({ key, word }) => [word, bucket[key]]);
    return {
      title,
      rows: [
        ["calls", count(bucket.calls)],
        ...[...rows, ...parts].map(([word, value]) => [word, milliseconds(value)]),
      ],
    };
  }

  function update(now) {
    shown = now;
    if (shown.width < 80) return; // nothing has been laid out yet
    put(image, "width", shown.width);
    put(image, "viewBox", `0 0 ${shown.width} ${HEIGHT}`);
    grid.replaceChildren();
    drawLines();
    drawBars();
    drawTimes();
    drawCross();
  }

  function drawLines() {
    const values = shown.buckets.flatMap((bucket) =>
      PERCENTILES.flatMap(({ key }) => (bucket[key] > 0 ? [bucket[key]] : [])),
    );
    const most = Math.max(0, ...values);
    const ticks =
      shown.logarithmic && values.length
        ? logTicks(Math.min(...values), most)
        : linearTicks(most, 5);
    const share = shareOf(ticks, shown.logarithmic && values.length > 0);
    shown.yOf = (value) => LINES.top + LINES.height * (1 - share(value));
    drawTicks(ticks, shown.yOf, "time of a call");
    const ends = PERCENTILES.map(({ key }) => {
      const index = shown.buckets.findLastIndex((bucket) => bucket[key] !== null && bucket.calls > 0);
      return index < 0 ? null : { x: xOf(index), y: shown.yOf(shown.buckets[index][key]) };
    });
    const seen = ends.filter((end) => end !== null);
    const heights = spread(
      seen.map((end) => end.y),
      13,
      LINES.top + 4,
      LINES.top + LINES.height,
    );
    lines.replaceChildren();
    PERCENTILES.forEach(({ key, word, dash }, index) => {
      const end = ends[index];
      if (end === null) return;
      const { way, alone } = wayOf(key);
      const tone = `mpreg-line mpreg-line-${word}`;
      lines.append(draw("path", { d: way, class: tone, fill: "none", "stroke-dasharray": dash }));
      for (const [x, y] of alone) {
        lines.append(draw("circle", { cx: x, cy: y, r: 2.4, class: `mpreg-dot-${word}` }));
      }
      const y = heights[seen.indexOf(end)] + 4;
      const label = { x: shown.width - RIGHT + 6, y, class: `mpreg-line-label mpreg-dot-${word}` };
      lines.append(draw("text", { ...label, text: word }));
    });
  }

  // A line that breaks where there were no calls; moments with none beside them: dots.
  function wayOf(key) {
    let way = "";
    let open = false;
    const alone = [];
    shown.buckets.forEach((bucket, index) => {
      const here = has(index, key);
      if (here) {
        const [x, y] = [xOf(index).toFixed(1), shown.yOf(bucket[key]).toFixed(1)];
        way += `${open ? "L" : "M"}${x} ${y}`;
        if (!has(index - 1, key) && !has(index + 1, key)) alone.push([x, y]);
      }
      open = here;
    });
    return { way, alone };
  }

  function has(index, key) {
    const bucket = shown.buckets[index];
    return bucket !== undefined && bucket.calls > 0 && bucket[key] !== null;
  }

  function drawBars() {
    const sum = (bucket) => PARTS.reduce((whole, { key }) => whole + (bucket[key] ?? 0), 0);
    const ticks = linearTicks(Math.max(0, ...shown.buckets.map(sum)), 3);
    const share = shareOf(ticks, false);
    const yOf = (value) => BARS.top + BARS.height * (1 - share(value));
    drawTicks(ticks, yOf, "mean time of a call, by part");
    const width = Math.max(1.5, (roomOf() / shown.buckets.length) * 0.76);
    bars.replaceChildren();
    shown.buckets.forEach((bucket, index) => {
      let low = 0;
      for (const part of PARTS) {
        const value = bucket[part.key] ?? 0;
        const [top, bottom] = [yOf(low + value), yOf(low)];
        low += value;
        if (bottom - top < 0.2) continue;
        bars.append(
          draw("rect", {
            x: (xOf(index) - width / 2).toFixed(1),
            y: top.toFixed(1),
            width: width.toFixed(1),
            height: (bottom - top).toFixed(1),
            fill: paint(part),
            class: part.pattern ? "mpreg-part" : `mpreg-part mpreg-part-${part.key}`,
          }),
        );
      }
    });
  }

  function drawTicks(ticks, yOf, title) {
    const top = yOf(ticks[ticks.length - 1]);
    grid.append(draw("text", { x: LEFT, y: top - 5 + 1, class: "mpreg-axis-title", text: title }));
    let last = Infinity;
    for (const tick of ticks) {
      const y = yOf(tick);
      const line = { x1: LEFT, x2: shown.width - RIGHT, y1: y.toFixed(1), y2: y.toFixed(1) };
      grid.append(draw("line", line));
      if (last - y < 14) continue;
      last = y;
      const text = tick < 1000 ? `${tickText(tick)} ms` : `${tickText(tick / 1000)} s`;
      grid.append(draw("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end", text }));
    }
  }

  function drawTimes() {
    const { buckets, bucketS } = shown;
    const bottom = BARS.top + BARS.height;
    const wanted = Math.max(2, Math.floor(roomOf() / 90));
    if (!buckets.length) return;
    const first = buckets[0].at_s;
    for (const before of linearTicks(-first, wanted)) {
      const index = (-before - first) / bucketS;
      const x = LEFT + ((index + 0.5) / buckets.length) * roomOf();
      if (x < LEFT - 1) continue;
      grid.append(
        draw("line", { x1: x.toFixed(1), x2: x.toFixed(1), y1: bottom, y2: bottom + 4 }),
        draw("text", {
          x: x.toFixed(1),
          y: bottom + 17,
          "text-anchor": "middle",
          text: before === 0 ? "now" : `−${tickText(before)} s`,
        }),
      );
    }
  }

  function drawCross() {
    if (place !== null && place >= shown.buckets.length) place = null;
    const spoken = place ?? lastWithCalls();
    put(image, "aria-valuemin", 0);
    put(image, "aria-valuemax", Math.max(0, shown.buckets.length - 1));
    put(image, "aria-valuenow", Math.max(0, spoken));
    if (shown.buckets.length) put(image, "aria-valuetext", sayAt(spoken));
    cross.style.display = place === null ? "none" : "";
    dots.replaceChildren();
    if (place === null) return;
    const x = xOf(place).toFixed(1);
    put(cross, "x1", x);
    put(cross, "x2", x);
    put(cross, "y1", LINES.top);
    put(cross, "y2", BARS.top + BARS.height);
    for (const { key, word } of PERCENTILES) {
      if (!has(place, key)) continue;
      const y = shown.yOf(shown.buckets[place][key]).toFixed(1);
      dots.append(draw("circle", { cx: x, cy: y, r: 3.4, class: `mpreg-dot-${word}` }));
    }
  }

  function sayAt(index) {
    const { title, rows, note } = figuresAt(index);
    return `${title}: ${note ?? rows.map(([name, value]) => `${name} ${value}`).join(", ")}`;
  }

  function makeKey(part) {
    const sample = draw("rect", {
      width: 14,
      height: 12,
      fill: paint(part),
      class: part.pattern ? "mpreg-part" : `mpreg-part mpreg-part-${part.key}`,
    });
    return make(
      "span",
      { class: "mpreg-badge" },
      draw("svg", { viewBox: "0 0 14 12", class: "mpreg-swatch" }, sample),
      make("span", { text: part.word }),
    );
  }

  const legend = make("span", { class: "mpreg-legend", "aria-hidden": "true" });
  legend.append(...PARTS.map(makeKey));
  return { element, legend, update };
}

function sayMoment(atS) {
  const before = Math.round(-atS);
  return before <= 0 ? "now" : `${before} s ago`;
}
