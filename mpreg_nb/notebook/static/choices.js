// choices.js: buttons of which one is pressed, such as the measure of the heat map or
// the run that is shown. The view gets the choice as `data-<name>`, for the style sheet;
// parts with `data-of` are shown with their choice only.

import { put } from "./dom.js";

export function makeChoices(place, kept) {
  place.addEventListener("click", (event) => {
    const button = event.target.closest("[data-choose]");
    if (button === null) return;
    const [name, value] = button.dataset.choose.split("=");
    kept[name] = value;
    update();
  });

  function update() {
    const chosen = new Map();
    const buttons = [...place.querySelectorAll("[data-choose]")];
    for (const button of buttons) {
      const [name, value] = button.dataset.choose.split("=");
      if (!chosen.has(name) || value === kept[name]) chosen.set(name, value);
    }
    for (const button of buttons) {
      const [name, value] = button.dataset.choose.split("=");
      const radio = button.getAttribute("role") === "radio";
      put(button, radio ? "aria-checked" : "aria-pressed", value === chosen.get(name) ? "true" : "false");
    }
    for (const [name, value] of chosen) put(place, `data-${name}`, value);
    for (const part of place.querySelectorAll("[data-of]")) {
      const [name, value] = part.dataset.of.split("=");
      part.hidden = value !== chosen.get(name);
    }
  }

  return { update };
}
