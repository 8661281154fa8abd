// view.js: one view of the panel: draws what the kernel sends, and lets it be used.

import { makeAsking } from "./asking.js";
import { makeChoices } from "./choices.js";
import { ownId, put } from "./dom.js";
import { makePatcher, propertyOf, toldAt } from "./patch.js";
import { makeSlider } from "./slider.js";
import { makeSorting } from "./sorting.js";
import { makeWalk } from "./walk.js";

// kept: what the user chose in this view, kept beyond it.
export function makeView({ place, tip, kept, send }) {
  const askings = new Map(); // element -> its button
  const sorting = makeSorting(place, kept);
  const choices = makeChoices(place, kept);
  const walk = makeWalk(place, tip);
  const slider = makeSlider(place, tip);
  const patch = makePatcher({
    place,
    name: ownId("drawn"),
    made,
    arrange: sorting.arrange,
  });

  function made(node) {
    const ask = propertyOf(node, "ask");
    if (ask) askings.set(node, makeAsking(node, { ...ask, act: () => send(ask.send) }));
  }

  function update(list) {
    patch(list);
    for (const node of askings.keys()) if (!node.isConnected) askings.delete(node);
    for (const part of [sorting, choices, walk, slider]) part.update();
  }

  // What was asked for has been answered: the buttons can be pressed again.
  function answer() {
    for (const asking of askings.values()) asking.reset();
  }

  showTips(place, tip);
  return { update, answer };
}

// Show the tip of what the pointer or the focus is on.
export function showTips(place, tip) {
  let shown = null;

  function point(anchor, at = null) {
    if (anchor !== null) tip.show(anchor, () => propertyOf(anchor, "tip"), at);
    else if (shown !== null) tip.hide(shown);
    if (anchor !== shown) touch(anchor);
    shown = anchor;
  }

  // Links of another node than the one that is pointed at fade.
  function touch(anchor) {
    const drawing = place.querySelector(".mpreg-topology");
    if (drawing === null) return;
    const name = anchor?.getAttribute("data-item") ?? null;
    put(drawing, "data-chosen", name);
    for (const link of drawing.querySelectorAll(".mpreg-links > g")) {
      put(link, "data-touched", propertyOf(link, "ends").includes(name));
    }
  }

  place.addEventListener("pointermove", (event) => {
    if (event.target.closest("[role=slider]")) return;
    const anchor = toldAt(event.target, place);
    const { clientX: left, clientY: top } = event;
    const here = { left, top, width: 0, height: 0, bottom: top };
    if (anchor?.matches(".mpreg-link-area")) point(anchor, () => here);
    else if (anchor !== shown || anchor !== null) point(anchor);
  });
  place.addEventListener("pointerleave", () => point(null));
  place.addEventListener("focusin", (event) => {
    if (!propertyOf(event.target, "tip")) return;
    if (event.target.matches(":focus-visible")) point(event.target);
  });
  place.addEventListener("focusout", (event) => {
    if (event.target === shown) point(null);
  });
}
