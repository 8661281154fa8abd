// axis.js: scales and ticks of the charts; pure arithmetic.

// Round steps of 1, 2 and 5 for an axis from 0 to at least `most`, about `wanted` of them.
export function linearTicks(most, wanted) {
  const rough = (most > 0 ? most : 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const top = Math.ceil(most / step - 1e-9) || 1;
  return Array.from({ length: top + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

// Ticks of 1, 2 and 5 times powers of ten, from below `least` to above `most`; over more
// than two decades only the powers between.
export function logTicks(least, most) {
  const low = roundTo(least, true);
  const high = Math.max(roundTo(most, false), low * 2);
  const wide = high / low > 200;
  const ticks = [];
  for (let power = Math.floor(Math.log10(low) + 1e-9); 10 ** power <= high; power += 1) {
    for (const factor of [1, 2, 5]) {
      const tick = Number((factor * 10 ** power).toPrecision(6));
      const edge = tick === low || tick === high;
      if (tick >= low && tick <= high && (edge || factor === 1 || !wide)) ticks.push(tick);
    }
  }
  return ticks.includes(high) ? ticks : [...ticks, high];
}

// The nearest of 1, 2, 5 times a power of ten, below it if `down`, else above.
function roundTo(value, down) {
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  const factor = value / power;
  const steps = [1, 2, 5, 10];
  const chosen = down
    ? steps.findLast((step) => step <= factor + 1e-9)
    : steps.find((step) => step >= factor - 1e-9);
  return Number((chosen * power).toPrecision(6));
}

// A tick as it is, with separators and no more digits than it has: 0.2, 50, 2,000.
export function tickText(tick) {
  return tick.toLocaleString("en-US", { maximumSignificantDigits: 6 });
}

// A function from a value to its share, 0 at the first tick and 1 at the last.
export function shareOf(ticks, logarithmic) {
  const form = logarithmic ? Math.log10 : (value) => value;
  const [low, high] = [form(ticks[0]), form(ticks[ticks.length - 1])];
  return (value) => {
    const inside = logarithmic ? Math.max(value, ticks[0]) : value;
    return Math.max(0, Math.min(1, (form(inside) - low) / (high - low)));
  };
}

// Move labels apart that would overlap: `wanted` heights, at least `gap` between two,
// all between `top` and `bottom`. Returns heights in the order that they came.
export function spread(wanted, gap, top, bottom) {
  const order = wanted.map((y, index) => ({ y, index })).sort((a, b) => a.y - b.y);
  order.forEach((label, place) => {
    const before = place ? order[place - 1].y + gap : top;
    label.y = Math.max(label.y, before);
  });
  for (let place = order.length - 1; place >= 0; place -= 1) {
    const after = place < order.length - 1 ? order[place + 1].y - gap : bottom;
    order[place].y = Math.min(order[place].y, after);
  }
  const heights = [];
  for (const { y, index } of order) heights[index] = y;
  return heights;
}
