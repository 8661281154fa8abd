// rate.js: calls a second of this notebook, as a number and its course.

import { make, put, write } from "./dom.js";
import { short } from "./figures.js";
import { makeSpark } from "./controls.js";

export function makeRate({ tip }) {
  const spark = makeSpark({ least: 1 });
  const text = make("span", { class: "mpreg-number" });
  const element = make("span", { class: "mpreg-rate", tabindex: "0" }, spark.element, text);
  let shown = { now: 0, course: [] };
  const words = (rate) => `${short(rate)} calls/s`;
  tip.tell(element, () => ({
    title: "Calls of this notebook",
    rows: [
      ["last 5 s", words(shown.now)],
      ["most in a second", words(Math.max(0, ...shown.course))],
      ["last minute", words(mean(shown.course))],
    ],
    note: "Calls that ended, steps of runs included.",
  }));

  function update(head) {
    shown = { now: head.calls_per_s ?? 0, course: head.course ?? [] };
    element.hidden = head.calls_per_s === undefined;
    spark.update(shown.course, { zero: true });
    write(text, words(shown.now));
    put(element, "aria-label", `${words(shown.now)} from this notebook`);
  }

  return { element, update };
}

function mean(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0) / (numbers.length || 1);
}
