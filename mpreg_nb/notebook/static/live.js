// live.js: the live panel. Shows what the kernel draws, and keeps nothing but what the
// user chose: tab, order, measure, run, frozen or not.
//
// A change of a drawing marks its view; the next animation frame shows it, if the view
// is the one that is open and on the screen. So there is at most one change per frame.

import { make, put, write } from "./dom.js";
import { makeBadge } from "./badge.js";
import { changedBy, makePatcher } from "./patch.js";
import { makeTip } from "./tip.js";
import { makeTabs } from "./tabs.js";
import { makeView, showTips } from "./view.js";
import { makeScrolls } from "./scrolls.js";
import { hideStill } from "./still.js";
import { keepKeys } from "./keys.js";

const VIEW_WORDS = {
  members: "Members",
  topology: "Topology",
  routes: "Routes",
  latency: "Latency",
  calls: "Calls",
  runs: "Runs",
};

// What the user chose, by widget manager (or model, where there is none) and by id: a
// model that is shown twice, or again, looks as it did.
const keptByOwner = new WeakMap();

function keptOf(model) {
  const owner = model.widget_manager ?? model;
  if (!keptByOwner.has(owner)) keptByOwner.set(owner, new Map());
  const byId = keptByOwner.get(owner);
  const id = model.get("id");
  if (!byId.has(id)) {
    byId.set(id, {
      tab: null,
      frozen: null, // or the drawings as they were then
      lost: false,
      drawings: new Map(), // view -> its elements
      taken: new Map(), // view -> the bytes that they are of, and the number of the change
      choices: Object.fromEntries(Object.keys(VIEW_WORDS).map((view) => [view, { sort: null }])),
    });
  }
  return byId.get(id);
}

const decoder = new TextDecoder();

// Take in the newest value of a trait: all elements of a view, or changes to them.
function take(model, kept, view) {
  const bytes = model.get(view);
  const before = kept.taken.get(view);
  if (!bytes || bytes === before?.bytes) return;
  const value = JSON.parse(decoder.decode(bytes));
  kept.taken.set(view, { bytes, number: value.number ?? null });
  const drawing = kept.drawings.get(view);
  if (Array.isArray(value)) kept.drawings.set(view, value);
  else if (drawing && (before.number === null || before.number === value.number - 1)) {
    kept.drawings.set(view, changedBy(drawing, value.changes));
  } else kept.drawings.delete(view); // changes to what never came: all is sent again soon
}

export function render({ model, el }) {
  const kept = keptOf(model);
  const views = (model.get("views") ?? []).filter((view) => view in VIEW_WORDS);
  if (!views.includes(kept.tab)) kept.tab = views[0] ?? null;
  const root = make("section", { class: "mpreg-live", "aria-label": "Live view of the cluster" });
  const tip = makeTip(root);
  const rate = make("span", { class: "mpreg-rate-place" });
  const showRate = makePatcher({ place: rate, name: "", made: () => {}, arrange: (_, nodes) => nodes });
  const state = makeBadge();
  const line = make("span", { class: "mpreg-head-line" });
  const freeze = make("button", { type: "button", class: "mpreg-button", onclick: turnFrozen });
  const close = make("button", {
    type: "button",
    class: "mpreg-button",
    text: "Close",
    title: "End the live updates; the last state stays",
    onclick: () => model.send({ do: "close" }),
  });
  const note = make("div", { class: "mpreg-note", role: "status" });
  const spoken = make("div", { class: "mpreg-hidden", "aria-live": "polite" });
  const tabs = makeTabs(
    views.map((view) => [view, VIEW_WORDS[view]]),
    { label: "Views of the cluster", choose },
  );
  const buttons = make("span", { class: "mpreg-buttons" }, freeze, close);
  root.append(
    make("header", { class: "mpreg-head" }, state.element, line, rate, buttons),
    note,
    tabs.list,
    tabs.panels,
    spoken,
  );
  put(root, "data-several", views.length > 1);
  el.append(root);

  const scrolls = makeScrolls(tabs.panels);
  const drawn = new Map();
  const stale = new Set(["head", ...views]);
  let states = model.get("states") ?? {}; // "node n1" or "run ab12" -> what it is
  let answered = "";
  let frame = 0;
  let onScreen = true;
  let ended = false;

  function viewOf(name) {
    if (!drawn.has(name)) {
      const send = (message) => model.send(message);
      drawn.set(name, makeView({ place: tabs.panel(name), tip, kept: kept.choices[name], send }));
    }
    return drawn.get(name);
  }

  function mark(name) {
    stale.add(name);
    if (frame === 0 && !ended) frame = requestAnimationFrame(redraw);
  }

  function redraw() {
    frame = 0;
    if (!onScreen || !root.isConnected) return; // marked still: drawn when it is seen
    if (stale.delete("head")) drawHead();
    if (kept.tab !== null && stale.delete(kept.tab)) {
      const drawing = (kept.frozen ?? kept).drawings.get(kept.tab);
      if (drawing !== undefined) viewOf(kept.tab).update(drawing);
      scrolls.check();
      tip.refresh();
    }
  }

  function headNow() {
    const head = model.get("head") ?? {};
    return { ...head, state: kept.lost ? "lost" : (head.state ?? "live") };
  }

  function drawHead() {
    const head = headNow();
    const live = head.state === "live";
    const shown = live && kept.frozen ? "paused" : head.state;
    state.update(shown);
    put(root, "data-state", shown);
    write(line, kept.frozen && live ? `${kept.frozen.head.line ?? ""}` : (head.line ?? ""));
    showRate((kept.frozen && live ? kept.frozen.head : head).rate ?? []);
    // Another note or error answers what a button asked for.
    const answer = `${head.note}|${head.error}|${head.state}`;
    if (answer !== answered) for (const view of drawn.values()) view.answer();
    answered = answer;
    write(freeze, kept.frozen ? "Continue" : "Pause");
    put(freeze, "title", kept.frozen ? "Show live updates again" : "Stop updates, to read the panel");
    freeze.hidden = close.hidden = !live;
    const said = head.error || head.note || "";
    const lost = "The kernel of this view is gone. This is the last state that it sent.";
    write(note, kept.lost ? lost : said);
    put(note, "data-error", Boolean(head.error) || kept.lost);
    note.hidden = note.textContent === "";
  }

  function choose(name) {
    kept.tab = name;
    tip.hide();
    tabs.show(name);
    mark(name);
  }

  function turnFrozen() {
    const now = { head: model.get("head") ?? {}, drawings: new Map(kept.drawings) };
    kept.frozen = kept.frozen ? null : now;
    for (const name of ["head", ...views]) mark(name);
    speak(kept.frozen ? "Updates are paused" : "Updates continue");
  }

  // Tell what changed its state, and nothing that is only a number.
  function tellChanges() {
    const before = states;
    states = model.get("states") ?? {};
    const changes = Object.keys(states).filter((key) => key in before && states[key] !== before[key]);
    const fresh = Object.keys(states).filter((key) => !(key in before));
    const said = [...changes, ...fresh].map((key) => states[key]);
    if (said.length === 0) return;
    const rest = said.length - 3;
    const more = rest > 0 ? `, and ${rest} more ${rest === 1 ? "change" : "changes"}` : "";
    speak(`${said.slice(0, 3).join(", ")}${more}`);
  }

  function speak(sentence) {
    // The same sentence twice is read twice only if the text changes between.
    spoken.replaceChildren(make("span", { text: sentence }));
  }

  const listeners = new Map([
    ["head", headChanged],
    ["states", tellChanges],
  ]);
  for (const view of views) listeners.set(view, () => changed(view));

  function headChanged() {
    if (kept.frozen !== null && headNow().state !== "live") {
      kept.frozen = null; // what ended is shown as it ended
      for (const view of views) mark(view);
    }
    mark("head");
  }

  function changed(view) {
    take(model, kept, view);
    if (kept.frozen === null) mark(view);
  }

  function lose() {
    kept.lost = true;
    headChanged();
  }

  for (const view of views) take(model, kept, view);
  showTips(rate, tip);
  for (const [name, listener] of listeners) model.on(`change:${name}`, listener);
  model.on("comm_live_update", lose);

  const releaseKeys = keepKeys(root);
  let showStill = null;
  const sight = new IntersectionObserver((entries) => {
    onScreen = entries[entries.length - 1].isIntersecting;
    if (onScreen) mark("head");
  });
  sight.observe(root);
  const measure = new ResizeObserver(() => {
    // Called once after it was put into the page: only then the still can be found.
    if (root.isConnected) showStill ??= hideStill(model.get("id"), el);
    scrolls.check();
  });
  measure.observe(root);

  if (kept.tab !== null) tabs.show(kept.tab);
  mark("head");
  model.send({ do: "ready" });

  return () => {
    ended = true;
    cancelAnimationFrame(frame);
    sight.disconnect();
    measure.disconnect();
    releaseKeys();
    for (const [name, listener] of listeners) model.off(`change:${name}`, listener);
    model.off("comm_live_update", lose);
    showStill?.();
    root.remove();
  };
}
