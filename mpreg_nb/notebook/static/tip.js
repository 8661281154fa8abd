// tip.js: one box of figures per panel, near what is pointed at or focused.
//
// It is made of elements without a style of their own: Jupyter gives lists, headings
// and paragraphs in outputs widths, floats and margins.

import { make, put } from "./dom.js";

const GAP_PX = 10;

export function makeTip(root) {
  const element = make("div", { class: "mpreg-tip", role: "tooltip", hidden: true });
  root.append(element);
  let shown = null; // { anchor, content }: what is told, and about which element

  function fill() {
    const [title, rows, note] = shown.content();
    const lines = rows.flatMap(([name, value]) => [
      make("div", { class: "mpreg-tip-name", text: name }),
      make("div", { class: "mpreg-tip-value", text: wordsOf(value, shown.anchor) }),
    ]);
    element.replaceChildren(make("div", { class: "mpreg-tip-title", text: title }));
    if (lines.length) element.append(make("div", { class: "mpreg-tip-rows" }, ...lines));
    if (note) element.append(make("div", { class: "mpreg-tip-note", text: note }));
  }

  function place() {
    const frame = root.getBoundingClientRect();
    const box = shown.at?.() ?? shown.anchor.getBoundingClientRect();
    const own = element.getBoundingClientRect();
    const room = frame.width - own.width - 4;
    const middle = box.left + box.width / 2 - frame.left;
    const left = Math.max(4, Math.min(room, middle - own.width / 2));
    const above = box.top - frame.top - own.height - GAP_PX;
    const below = box.bottom - frame.top + GAP_PX;
    const fits = below + own.height < frame.height;
    const top = above >= 0 || !fits ? Math.max(2, above) : below;
    put(element, "style", `left:${left.toFixed(0)}px;top:${top.toFixed(0)}px`);
  }

  function show(anchor, content, at = null) {
    shown = { anchor, content, at };
    fill();
    element.hidden = false;
    place();
  }

  function hide(anchor = null) {
    if (anchor !== null && shown?.anchor !== anchor) return;
    shown = null;
    element.hidden = true;
  }

  // Tell the newest figures; to be called when a picture was drawn.
  function refresh() {
    if (shown === null) return;
    if (shown.anchor.getClientRects().length === 0) {
      hide();
      return;
    }
    fill();
    place();
  }

  return { show, hide, refresh };
}

// A tip as one sentence; `anchor` is the chart that it belongs to.
export function sayTip([title, rows, note], anchor) {
  const figures = rows.map(([name, value]) => `${name} ${wordsOf(value, anchor)}`);
  return `${title}: ${figures.join(", ") || note}`;
}

// A number is a moment: the time from then to the picture, `data-now` of its chart.
function wordsOf(value, anchor) {
  if (typeof value === "string") return value;
  const s = Math.max(0, Number(anchor.getAttribute("data-now")) - value);
  return `${s < 10 ? s.toFixed(1) : s.toFixed(0)} s ago`;
}
