// marks.js: each state is told by a shape and a word; its colour only repeats them.

import { draw, make, put, write } from "./dom.js";

// Paths in a square of 12 by 12; `filled` ones are areas, the others lines.
const NODE_LOOKS = {
  alive: { path: "M6 1.2a4.8 4.8 0 1 1-.01 0z", filled: true, tone: "good" },
  suspect: { path: "M6 1.2L11.2 10.6H.8zM6 4.6v3M6 8.9v.3", tone: "warn" },
  dead: { path: "M1.8 1.8l8.4 8.4M10.2 1.8l-8.4 8.4", tone: "bad" },
  left: { path: "M1.8 1.8h8.4v8.4h-8.4zM4 6h4", tone: "idle" },
};

const STEP_LOOKS = {
  waiting: { path: "M6 1.5a4.5 4.5 0 1 0 .01 0z", tone: "idle" },
  running: { path: "M2.5 1l8 5l-8 5z", filled: true, tone: "busy" },
  done: { path: "M1.5 6.5l3.2 3.5l6-8", tone: "good" },
  failed: { path: "M2 2l8 8M10 2l-8 8", tone: "bad" },
  lost: { path: "M2 2l8 8M10 2l-8 8", tone: "bad" },
  skipped: {
    path: "M1.5 1.5l4.5 4.5l-4.5 4.5M6.5 1.5l4.5 4.5l-4.5 4.5",
    tone: "idle",
  },
  cancelled: { path: "M2 2h8v8h-8z", filled: true, tone: "warn" },
  fallback: { path: "M2.5 1v6.5h7.5M7 4.5l3 3l-3 3", tone: "odd" },
  undone: { path: "M4.5 1.5l-3 3l3 3M1.5 4.5h5.5a3 3 0 0 1 0 6h-3", tone: "idle" },
};

const VIEW_LOOKS = {
  live: { path: "M6 2a4 4 0 1 1-.01 0z", filled: true, tone: "good" },
  paused: { path: "M3 2h2v8h-2zM7 2h2v8h-2z", filled: true, tone: "busy" },
  ended: { path: "M2.5 2.5h7v7h-7z", filled: true, tone: "idle" },
  lost: { path: "M2.5 2.5l7 7M9.5 2.5l-7 7", tone: "bad" },
};

const UNKNOWN_LOOK = { path: "M3 6h6", tone: "idle" };

export function nodeLook(state) {
  return NODE_LOOKS[state] ?? UNKNOWN_LOOK;
}

export function stepLook(status) {
  return STEP_LOOKS[status] ?? UNKNOWN_LOOK;
}

// A shape of 12 by 12, centred on nothing: `update(look)` gives it form and colour.
export function shapeOf() {
  const path = draw("path", { "stroke-linecap": "round", "stroke-linejoin": "round" });
  const element = draw("g", {}, path);

  function update(look) {
    put(path, "d", look.path);
    put(path, "fill", look.filled ? "currentColor" : "none");
    put(path, "stroke", "currentColor");
    put(path, "stroke-width", look.filled ? 0.6 : 1.9);
    put(element, "class", `mpreg-tone-${look.tone}`);
  }

  return { element, update };
}

// Shape and word side by side, for a line of text.
function badge(looks) {
  const shape = shapeOf();
  const word = make("span", { class: "mpreg-word" });
  const element = make(
    "span",
    { class: "mpreg-badge" },
    draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, shape.element),
    word,
  );

  function update(state) {
    shape.update(looks[state] ?? UNKNOWN_LOOK);
    write(word, state);
    put(element, "data-state", state);
  }

  return { element, update };
}

export const nodeBadge = () => badge(NODE_LOOKS);
export const stepBadge = () => badge(STEP_LOOKS);
export const viewBadge = () => badge(VIEW_LOOKS);
