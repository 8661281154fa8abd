// scrolls.js: says of what scrolls that it does, and where there is more.
//
// An edge behind which there is more fades, and one line says it in words. What scrolls
// is reached by Tab and moved by arrow keys.

import { make, put, write } from "./dom.js";

const SLACK_PX = 2; // browsers round sizes

export function makeScrolls(panels) {
  const hint = make("div", { class: "mpreg-more", "aria-hidden": "true", hidden: true });
  panels.append(hint);
  panels.addEventListener("scroll", check, { capture: true, passive: true });

  // To be called when something was drawn or laid out anew.
  function check() {
    const said = new Set();
    for (const place of panels.querySelectorAll(".mpreg-view, .mpreg-scroll")) {
      if (place.offsetParent === null) continue; // of a tab that is not open
      const [high, wide] = [place.scrollHeight - place.clientHeight, place.scrollWidth - place.clientWidth];
      const more = [
        high - place.scrollTop > SLACK_PX ? "down" : null,
        wide - place.scrollLeft > SLACK_PX ? "right" : null,
      ].filter(Boolean);
      put(place, "data-more", more.join(" ") || null);
      put(place, "tabindex", high > SLACK_PX || wide > SLACK_PX ? "0" : null);
      for (const way of more) said.add(way);
    }
    const words = [
      said.has("down") ? "more below ↓" : null,
      said.has("right") ? "more to the right →" : null,
    ];
    write(hint, words.filter(Boolean).join(" · "));
    hint.hidden = said.size === 0;
  }

  return { check };
}
