// figures.js: numbers as people read them, always with their unit.

export const NOTHING = "–";

const wholeFormat = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

// Three significant digits at most: 0.42, 4.2, 42, 420.
export function short(number) {
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size >= 99.5) return wholeFormat.format(number);
  if (size >= 9.95) return number.toFixed(0);
  if (size >= 0.995) return number.toFixed(1);
  return size >= 0.005 ? number.toFixed(2) : number.toPrecision(1);
}

export function count(number) {
  return number === null || number === undefined ? NOTHING : wholeFormat.format(number);
}

// A count with its noun: "1 call", "12 calls".
export function counted(number, noun, plural = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : plural}`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return NOTHING;
  if (ms < 999.5) return `${short(ms)} ms`;
  return seconds(ms / 1000);
}

export function seconds(s) {
  if (s === null || s === undefined) return NOTHING;
  if (s < 59.5) return `${short(s)} s`;
  const minutes = Math.floor(Math.round(s) / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(s) % 60} s`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

export function percent(number) {
  return number === null || number === undefined ? NOTHING : `${short(number)} %`;
}

export function megabytes(mb) {
  if (mb === null || mb === undefined) return NOTHING;
  return mb < 999.5 ? `${short(mb)} MB` : `${short(mb / 1000)} GB`;
}

export function bytesPerSecond(rate) {
  if (rate === null || rate === undefined) return NOTHING;
  const units = ["B/s", "kB/s", "MB/s", "GB/s"];
  let size = rate;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? wholeFormat.format(size) : short(size)} ${units[unit]}`;
}

const naturalOrder = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// Order of names in which n2 comes before n10.
export function byName(left, right) {
  return naturalOrder.compare(left, right) || (left < right ? -1 : left > right ? 1 : 0);
}
