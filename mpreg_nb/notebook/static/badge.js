// badge.js: whether the panel is live, as a mark and a word. Only the script knows it.

import { draw, make, put, write } from "./dom.js";

// Paths in a square of 12 by 12.
const VIEW_LOOKS = {
  live: { d: "M6 2a4 4 0 1 1-.01 0z", fill: "currentColor", tone: "good" },
  paused: { d: "M3 2h2v8h-2zM7 2h2v8h-2z", fill: "currentColor", tone: "busy" },
  ended: { d: "M2.5 2.5h7v7h-7z", fill: "currentColor", tone: "idle" },
  lost: { d: "M2.5 2.5l7 7M9.5 2.5l-7 7", fill: "none", tone: "bad" },
};

export function makeBadge() {
  const path = draw("path", { stroke: "currentColor", "stroke-width": 1 });
  const image = draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
  const word = make("span", { class: "mpreg-word" });
  const element = make("span", { class: "mpreg-badge" }, image, word);

  function update(state) {
    const { d, fill, tone } = VIEW_LOOKS[state];
    put(path, "d", d);
    put(path, "fill", fill);
    put(image, "class", `mpreg-tone-${tone}`);
    write(word, state);
    put(element, "data-state", state);
  }

  return { element, update };
}
