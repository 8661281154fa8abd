// controls.js: buttons that ask before they act, choices, bars, sparklines, chips.

import { draw, keyedList, make, put, write } from "./dom.js";

// A button that acts only when it is confirmed.
//
// The button that takes the question back stands where the first one stood, so that a
// double click does no harm; Escape and leaving the place take it back too.
export function makeAsking({ word, question, confirm, act }) {
  const first = make("button", { type: "button", class: "mpreg-button", text: word });
  const asked = make("span", { class: "mpreg-question" });
  const yes = make("button", { type: "button", class: "mpreg-button mpreg-danger" });
  const no = make("button", { type: "button", class: "mpreg-button", text: "No" });
  const sent = make("span", { class: "mpreg-soft", hidden: true, tabindex: "-1" });
  const asking = make("span", { class: "mpreg-asking", hidden: true }, asked, yes, no);
  const element = make("span", { class: "mpreg-act" }, first, asking, sent);

  function ask() {
    write(asked, question());
    write(yes, confirm);
    put(yes, "aria-label", `${confirm}: ${question()}`);
    first.hidden = true;
    asking.hidden = false;
    yes.focus();
  }

  function back({ focus = false } = {}) {
    if (asking.hidden) return;
    asking.hidden = true;
    first.hidden = false;
    if (focus) first.focus();
  }

  first.addEventListener("click", ask);
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

  // `label` is what screen readers hear; `waiting` is shown after it was confirmed.
  function update({ label, waiting, usable }) {
    put(first, "aria-label", label);
    put(first, "title", label);
    write(sent, waiting);
    element.hidden = !usable;
  }

  // Let it be pressed again, after an answer that it did not work.
  function reset() {
    if (sent.hidden) return;
    sent.hidden = true;
    first.hidden = false;
  }

  return { element, update, reset };
}

// One of a few values: buttons of which one is pressed.
export function makeChoice({ label, values, choose }) {
  const element = make("div", { class: "mpreg-choice", role: "group", "aria-label": label });
  element.append(make("span", { class: "mpreg-soft", text: label }));
  const buttons = new Map();
  for (const [value, word] of values) {
    const button = make("button", {
      type: "button",
      text: word,
      onclick: () => choose(value),
    });
    buttons.set(value, button);
    element.append(button);
  }

  function update(chosen) {
    for (const [value, button] of buttons) {
      put(button, "aria-pressed", value === chosen ? "true" : "false");
    }
  }

  return { element, update };
}

// How much of a whole is taken, as a bar with its text.
export function makeBar() {
  const fill = make("span", { class: "mpreg-bar-fill" });
  const text = make("span", { class: "mpreg-number" });
  const track = make("span", { class: "mpreg-bar", "aria-hidden": "true" }, fill);
  const element = make("span", { class: "mpreg-bar-line" }, track, text);

  function update(part, whole, words) {
    const share = whole > 0 ? Math.min(1, part / whole) : 0;
    put(fill, "style", `width:${(100 * share).toFixed(0)}%`);
    put(track, "data-full", share >= 1);
    write(text, words);
  }

  return { element, update };
}

const SPARK_WIDTH = 54;
const SPARK_HEIGHT = 18;

// The course of one number, newest at the right; `floor` and `least` fix its scale.
export function makeSpark({ least }) {
  const area = draw("path", { class: "mpreg-spark-area" });
  const line = draw("path", { class: "mpreg-spark-line", fill: "none" });
  const end = draw("circle", { r: 1.8, class: "mpreg-spark-end" });
  const element = draw(
    "svg",
    {
      class: "mpreg-spark",
      viewBox: `0 0 ${SPARK_WIDTH} ${SPARK_HEIGHT}`,
      "aria-hidden": "true",
    },
    area,
    line,
    end,
  );

  function update(numbers, { zero = false } = {}) {
    element.style.visibility = numbers.length > 1 ? "visible" : "hidden";
    if (numbers.length < 2) return;
    let low = zero ? 0 : Math.min(...numbers);
    let high = Math.max(...numbers);
    if (high - low < least) {
      const middle = zero ? least / 2 : (high + low) / 2;
      [low, high] = [middle - least / 2, middle + least / 2];
    }
    const step = (SPARK_WIDTH - 4) / Math.max(11, numbers.length - 1);
    const start = SPARK_WIDTH - 2 - step * (numbers.length - 1);
    const points = numbers.map((number, index) => {
      const y = SPARK_HEIGHT - 2 - ((number - low) / (high - low)) * (SPARK_HEIGHT - 4);
      return [(start + step * index).toFixed(1), y.toFixed(1)];
    });
    const way = points.map((point) => point.join(" ")).join("L");
    const [lastX, lastY] = points[points.length - 1];
    put(line, "d", `M${way}`);
    put(area, "d", `M${points[0][0]} ${SPARK_HEIGHT}L${way}L${lastX} ${SPARK_HEIGHT}z`);
    put(end, "cx", lastX);
    put(end, "cy", lastY);
  }

  return { element, update };
}

// Names side by side; what does not fit is counted and told by `title`.
export function makeChips(most = 2) {
  const element = make("span", { class: "mpreg-chips" });
  const list = keyedList(element, (name) => ({
    element: make("span", { class: "mpreg-chip", title: name, text: name }),
    update: () => {},
  }));
  const more = make("span", { class: "mpreg-soft" });

  function update(names) {
    list.update(names.slice(0, most), (name) => name);
    const rest = names.slice(most);
    write(more, rest.length ? `+${rest.length}` : "");
    put(element, "title", rest.length ? names.join(", ") : null);
    element.append(more);
  }

  return { element, update };
}

// What a view says when there is nothing to show yet.
export function makeEmpty(sentence, code = "") {
  const element = make("p", { class: "mpreg-empty", hidden: true });
  element.append(make("span", { text: sentence }));
  if (code) element.append(make("code", { text: code }));
  return element;
}
