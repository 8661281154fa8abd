// asking.js: a button that acts only when it is confirmed.
//
// The button that takes the question back stands where the first one stood, so that a
// double click does no harm; Escape and leaving the place take it back too.

import { make } from "./dom.js";

export function makeAsking(element, { word, question, label, act }) {
  const button = (attributes) => make("button", { type: "button", class: "mpreg-button", ...attributes });
  const first = button({ text: word, "aria-label": label, title: label });
  const yes = button({ text: word, class: "mpreg-button mpreg-danger", "aria-label": `${word}: ${question}` });
  const no = button({ text: "No" });
  const sent = make("span", { class: "mpreg-soft", text: "sent …", hidden: true, tabindex: "-1" });
  const asked = make("span", { class: "mpreg-question", text: question });
  const asking = make("span", { class: "mpreg-asking", hidden: true }, asked, yes, no);
  element.append(first, asking, sent);

  function back({ focus = false } = {}) {
    if (asking.hidden) return;
    asking.hidden = true;
    first.hidden = false;
    if (focus) first.focus();
  }

  first.addEventListener("click", () => {
    first.hidden = true;
    asking.hidden = false;
    yes.focus();
  });
  no.addEventListener("click", () => back({ focus: true }));
  yes.addEventListener("click", () => {
    asking.hidden = true;
    sent.hidden = false;
    sent.focus(); // else the focus would fall out of the row
    act();
  });
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || asking.hidden) return;
    event.stopPropagation();
    back({ focus: true });
  });
  element.addEventListener("focusout", (event) => {
    if (!element.contains(event.relatedTarget)) back();
  });

  // Let it be pressed again, after an answer.
  function reset() {
    if (sent.hidden) return;
    sent.hidden = true;
    first.hidden = false;
  }

  return { reset };
}
