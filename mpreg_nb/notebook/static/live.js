// live.js: the live panel. Draws the pictures that the kernel sends as traits, and keeps
// nothing but what the user chose: tab, order, measure, frozen or not.
//
// A change of a picture marks its view; the next animation frame draws it, if it is the
// one that is open and on the screen. So there is at most one drawing per frame.

import { make, put, write } from "./dom.js";
import { counted } from "./figures.js";
import { viewBadge } from "./marks.js";
import { makeTip } from "./tip.js";
import { makeTabs } from "./tabs.js";
import { membersView } from "./members.js";
import { topologyView } from "./topology.js";
import { routesView } from "./routes.js";
import { latencyView } from "./latency.js";
import { callsView } from "./calls.js";
import { runsView } from "./runs.js";
import { makeRate } from "./rate.js";
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

const PADDING_PX = 24; // of a view, left and right together, as live.css has it

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
      frozen: null, // or the pictures as they were then
      lost: false,
      closedNote: "",
      members: { sort: null },
      topology: { node: null },
      routes: { measure: "calls", cell: null },
      latency: { axis: "log", sort: null },
      calls: { at: null },
      runs: { run: null, bar: null },
    });
  }
  return byId.get(id);
}

export function render({ model, el }) {
  const kept = keptOf(model);
  const views = (model.get("views") ?? []).filter((view) => view in VIEW_WORDS);
  if (!views.includes(kept.tab)) kept.tab = views[0] ?? null;
  const root = make("section", { class: "mpreg-live", "aria-label": "Live view of the cluster" });
  const tip = makeTip(root);
  const rate = makeRate({ tip });
  const state = viewBadge();
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
    make("header", { class: "mpreg-head" }, state.element, line, rate.element, buttons),
    note,
    tabs.list,
    tabs.panels,
    spoken,
  );
  put(root, "data-several", views.length > 1);
  el.append(root);

  const scrolls = makeScrolls(tabs.panels);
  const makers = {
    members: membersView,
    topology: topologyView,
    routes: routesView,
    latency: latencyView,
    calls: callsView,
    runs: runsView,
  };
  const drawn = new Map();
  const stale = new Set(["head", ...views]);
  const known = new Map(); // "node n1" or "run ab12" -> its state when it was last told
  let frame = 0;
  let onScreen = true;
  let ended = false;

  function pictureOf(name) {
    return (kept.frozen ?? {})[name] ?? model.get(name) ?? {};
  }

  function viewOf(name) {
    if (!drawn.has(name)) {
      const view = makers[name]({
        tip,
        kept: kept[name],
        send: (message) => model.send(message),
        redraw: () => mark(name),
        widthOf: () => tabs.panel(name).clientWidth - PADDING_PX,
      });
      tabs.panel(name).append(...view.elements);
      drawn.set(name, view);
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
      viewOf(kept.tab).update(pictureOf(kept.tab), headNow());
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
    rate.update(kept.frozen && live ? kept.frozen.head : head);
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
    kept.frozen = kept.frozen ? null : copyOfPictures();
    for (const name of ["head", ...views]) mark(name);
    speak(kept.frozen ? "Updates are paused" : "Updates continue");
  }

  function copyOfPictures() {
    const names = ["head", ...views];
    return Object.fromEntries(names.map((name) => [name, model.get(name) ?? {}]));
  }

  // Tell what changed its state, and nothing that is only a number.
  function tellChanges(kind, states, firstTime) {
    const changed = [];
    for (const [own, name, now] of states) {
      const key = `${kind} ${own}`;
      if (!firstTime && known.get(key) !== now) changed.push(`${name} is ${now}`);
      known.set(key, now);
    }
    if (changed.length === 0) return;
    const rest = changed.length - 3;
    const more = rest > 0 ? `, and ${counted(rest, "more change")}` : "";
    speak(`${changed.slice(0, 3).join(", ")}${more}`);
  }

  function speak(sentence) {
    // The same sentence twice is read twice only if the text changes between.
    spoken.replaceChildren(make("span", { text: sentence }));
  }

  function nodeStates() {
    const rows = model.get("members")?.rows ?? model.get("topology")?.nodes ?? [];
    return rows.filter((row) => row.kind !== "client").map((row) => [row.node, row.node, row.state]);
  }

  function runStates() {
    return (model.get("runs")?.runs ?? []).map((run) => [run.run, run.workflow, run.status]);
  }

  const listeners = new Map([["head", () => everything()]]);
  for (const view of views) listeners.set(view, () => changed(view));

  function everything() {
    const live = headNow().state === "live";
    if (!live) kept.frozen = null; // what ended is shown as it ended
    for (const name of ["head", ...views]) mark(name);
  }

  function changed(view) {
    if (view === "runs") tellChanges("run", runStates(), false);
    else if (view === "members" || view === "topology") tellChanges("node", nodeStates(), false);
    if (kept.frozen === null) mark(view);
  }

  function lose() {
    kept.lost = true;
    everything();
  }

  tellChanges("node", nodeStates(), true);
  tellChanges("run", runStates(), true);
  for (const [name, listener] of listeners) model.on(`change:${name}`, listener);
  model.on("comm_live_update", lose);

  const releaseKeys = keepKeys(root);
  let showStill = null;
  const sight = new IntersectionObserver((entries) => {
    onScreen = entries[entries.length - 1].isIntersecting;
    if (onScreen) mark("head");
  });
  sight.observe(root);
  let width = 0;
  const measure = new ResizeObserver(() => {
    // Called once after it was put into the page: only then the still can be found.
    if (root.isConnected) showStill ??= hideStill(model.get("id"), el);
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    for (const name of views) mark(name);
  });
  measure.observe(root);

  if (kept.tab !== null) tabs.show(kept.tab);
  mark("head");

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
