// topology.js: nodes on rings around this notebook, links as wide as their traffic.

import { draw, fitted, keyedList, make, put, write } from "./dom.js";
import { byName, bytesPerSecond, counted, short } from "./figures.js";
import { nodeLook, shapeOf } from "./marks.js";
import { makeEmpty } from "./controls.js";
import { ringPlaces } from "./rings.js";

const MOST_LINKS = 240; // the busiest; more of them would hide each other
const MOVING_LINKS = 12; // each that moves costs the browser a repaint per frame
const LEAST_MOVING = 2000; // bytes a second: gossip alone does not move
const BUSY_BYTES_PER_S = 1e6; // a link with this much is as wide as any
const LABEL_FONT = "12px system-ui, sans-serif";
const SMALL_FONT = "10.5px system-ui, sans-serif";

export function topologyView({ tip, kept, redraw }) {
  const empty = makeEmpty("No node is known yet.");
  const linkLayer = draw("g", { class: "mpreg-links" });
  const nodeLayer = draw("g");
  const image = draw(
    "svg",
    { class: "mpreg-topology", role: "group", "aria-label": "Topology of the cluster" },
    linkLayer,
    nodeLayer,
  );
  const caption = make("p", { class: "mpreg-caption" });
  const legend = makeLegend();
  const element = make("div", { class: "mpreg-figure" }, image);
  const nodes = keyedList(nodeLayer, () => makeNode());
  const links = keyedList(linkLayer, () => makeLink());
  let places = new Map();
  let traffic = new Map(); // name -> what it sends and receives, and its links
  let chosen = null; // the name that is pointed at or focused

  function makeNode() {
    const ring = draw("circle", { r: 13, class: "mpreg-node-ground" });
    const load = draw("circle", { r: 13, class: "mpreg-node-load", fill: "none" });
    const entry = draw("circle", { r: 17, class: "mpreg-node-entry", fill: "none" });
    const shape = shapeOf();
    const mark = draw("g", {}, shape.element);
    const label = draw("text", { class: "mpreg-node-label" });
    const area = draw("circle", { r: 20, fill: "transparent" });
    const element = draw(
      "g",
      { class: "mpreg-node", role: "img" },
      area,
      entry,
      ring,
      load,
      mark,
      label,
    );
    let node = null;
    tip.tell(element, () => figuresOf(node));
    element.addEventListener("pointerenter", () => choose(node.node));
    element.addEventListener("pointerleave", () => choose(null));
    element.addEventListener("focus", () => {
      kept.node = node.node;
      choose(node.node);
    });
    element.addEventListener("blur", () => choose(null));
    element.addEventListener("keydown", (event) => step(event, node.node));

    function update(now) {
      node = now;
      const { x, y, angle, radius, size, turned } = places.get(node.node);
      const isClient = node.kind === "client";
      put(element, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      put(element, "data-state", node.state);
      put(element, "data-kind", node.kind);
      put(element, "tabindex", kept.node === node.node ? "0" : "-1");
      put(element, "aria-label", sayNode(node));
      for (const circle of [ring, load]) put(circle, "r", 13 * size);
      put(entry, "r", 17 * size);
      put(area, "r", 20 * size);
      entry.style.display = node.entry ? "" : "none";
      shape.update(isClient ? { path: "M1 2h10v7h-10zM0 11h12", tone: "busy" } : nodeLook(node.state));
      put(mark, "transform", `scale(${size}) translate(-6 -6)`);
      const around = 2 * Math.PI * 13 * size;
      const share = node.slots ? Math.min(1, node.busy / node.slots) : 0;
      put(load, "stroke-dasharray", `${(around * share).toFixed(1)} ${around.toFixed(1)}`);
      put(load, "transform", "rotate(-90)");
      placeLabel(label, { node, angle, radius, size, turned });
    }

    return { element, update };
  }

  function placeLabel(label, { node, angle, radius, size, turned }) {
    const away = 20 * size + 3;
    write(label, fitted(node.node, turned ? 74 : 118, turned ? SMALL_FONT : LABEL_FONT));
    put(label, "data-small", turned);
    if (radius === 0) {
      put(label, "transform", `translate(0 ${away + 10})`);
      put(label, "text-anchor", "middle");
      return;
    }
    const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
    if (turned) {
      const degrees = (angle * 180) / Math.PI;
      const leftward = dx < 0;
      const turn = leftward ? degrees + 180 : degrees;
      put(label, "transform", `rotate(${turn.toFixed(1)}) translate(${leftward ? -away : away} 3.5)`);
      put(label, "text-anchor", leftward ? "end" : "start");
      return;
    }
    const side = Math.abs(dx) < 0.25 ? "middle" : dx < 0 ? "end" : "start";
    const drop = side === "middle" ? (dy < 0 ? 0 : 9) : 4;
    put(label, "transform", `translate(${(dx * away).toFixed(1)} ${(dy * away + drop).toFixed(1)})`);
    put(label, "text-anchor", side);
  }

  function makeLink() {
    const line = draw("path", { class: "mpreg-link", fill: "none" });
    const flow = draw("path", { class: "mpreg-flow", fill: "none" });
    const area = draw("path", { class: "mpreg-link-area", fill: "none" });
    const element = draw("g", {}, line, flow, area);
    let link = null;
    area.addEventListener("pointermove", (event) => {
      const at = { left: event.clientX, top: event.clientY, width: 0, height: 0 };
      tip.show(area, () => figuresOfLink(link), () => ({ ...at, bottom: at.top }));
    });
    area.addEventListener("pointerleave", () => tip.hide(area));

    function update(now) {
      link = now;
      const [from, to] = [places.get(link.a), places.get(link.b)];
      // Chords bend towards the middle, so that two of one line are told apart.
      const bend = from.radius === 0 || to.radius === 0 ? 1 : 0.55;
      const midX = ((from.x + to.x) / 2) * bend;
      const midY = ((from.y + to.y) / 2) * bend;
      const points = [from.x, from.y, midX, midY, to.x, to.y].map((n) => n.toFixed(1));
      const way = `M${points[0]} ${points[1]}Q${points.slice(2).join(" ")}`;
      const busy = Math.min(
        1,
        Math.log10(1 + link.bytes_per_s) / Math.log10(1 + BUSY_BYTES_PER_S),
      );
      const touched = chosen !== null && (link.a === chosen || link.b === chosen);
      const faded = chosen !== null && !touched;
      for (const path of [line, flow, area]) put(path, "d", way);
      const opacity = faded ? 0.05 : touched ? 0.95 : (0.18 + 0.5 * busy) * link.density;
      put(line, "stroke-width", (1 + 5 * busy * busy * (touched ? 1 : link.density)).toFixed(2));
      put(line, "stroke-opacity", opacity.toFixed(2));
      put(line, "data-idle", link.bytes_per_s === 0);
      put(flow, "stroke-width", (1 + 2.5 * busy).toFixed(2));
      flow.style.display = link.moving && !faded ? "" : "none";
    }

    return { element, update };
  }

  function choose(name) {
    if (chosen === name) return;
    chosen = name;
    redraw();
  }

  // Arrow keys go around from node to node; Tab leaves the drawing.
  function step(event, name) {
    const names = [...places.keys()];
    const here = names.indexOf(name);
    const ways = {
      ArrowRight: 1,
      ArrowDown: 1,
      ArrowLeft: names.length - 1,
      ArrowUp: names.length - 1,
    };
    if (event.key === "Escape") tip.hide();
    if (!(event.key in ways)) return;
    event.preventDefault();
    const next = names[(here + ways[event.key]) % names.length];
    put(nodes.parts.get(name).element, "tabindex", "-1");
    put(nodes.parts.get(next).element, "tabindex", "0");
    nodes.parts.get(next).element.focus();
  }

  function figuresOf(node) {
    const own = traffic.get(node.node) ?? { bytes: 0, messages: 0, links: [] };
    const busiest = [...own.links]
      .sort((left, right) => right.bytes_per_s - left.bytes_per_s)
      .slice(0, 4)
      .map((link) => [
        `↔ ${link.a === node.node ? link.b : link.a}`,
        bytesPerSecond(link.bytes_per_s),
      ]);
    const work =
      node.kind === "client"
        ? []
        : [
            ["state", node.state],
            ["busy", `${node.busy} of ${counted(node.slots, "slot")}`],
            ["resources", (node.resources ?? []).join(", ") || "none"],
          ];
    return {
      title: node.node,
      rows: [
        ...work,
        ["traffic", bytesPerSecond(own.bytes)],
        ["messages", `${short(own.messages)}/s`],
        ...busiest,
      ],
      note: node.entry ? "This notebook is connected through this node." : "",
    };
  }

  function sayNode(node) {
    const { title, rows, note } = figuresOf(node);
    return `${title}: ${rows.map(([name, value]) => `${name} ${value}`).join(", ")}. ${note}`;
  }

  function figuresOfLink(link) {
    return {
      title: `${link.a} ↔ ${link.b}`,
      rows: [
        ["traffic", bytesPerSecond(link.bytes_per_s)],
        ["messages", `${short(link.messages_per_s)}/s`],
      ],
    };
  }

  function update(picture) {
    const known = [...(picture.nodes ?? [])].sort(
      (left, right) =>
        (left.kind === "client" ? -1 : 0) - (right.kind === "client" ? -1 : 0) ||
        byName(left.node, right.node),
    );
    empty.hidden = known.length > 0;
    for (const part of [element, caption, legend]) part.hidden = known.length === 0;
    const layout = ringPlaces(known);
    places = layout.places;
    if (!places.has(kept.node)) kept.node = known[0]?.node ?? null;
    put(image, "viewBox", layout.box.map((number) => number.toFixed(0)).join(" "));
    put(image, "style", `max-height:${Math.max(300, Math.min(620, layout.box[3])).toFixed(0)}px`);

    const all = (picture.links ?? []).filter((link) => places.has(link.a) && places.has(link.b));
    countTraffic(all);
    const busiest = [...all].sort((left, right) => right.bytes_per_s - left.bytes_per_s);
    // Many links are drawn thinner and fainter, so that they do not become one disc.
    const density = Math.min(1, Math.sqrt(30 / Math.min(MOST_LINKS, all.length)));
    const drawn = busiest.slice(0, MOST_LINKS).map((link, index) => ({
      ...link,
      density,
      moving: index < MOVING_LINKS && link.bytes_per_s > LEAST_MOVING,
    }));
    links.update(drawn, (link) => JSON.stringify([link.a, link.b]));
    nodes.update(known, (node) => node.node);
    put(image, "data-many", known.length > 40);
    const cut = drawn.length < all.length ? `the ${drawn.length} busiest of ` : "";
    write(
      caption,
      `${counted(known.filter((node) => node.kind !== "client").length, "node")}, ` +
        `${cut}${counted(all.length, "link")} · traffic of the last ${picture.window_s ?? 10} s`,
    );
  }

  function countTraffic(all) {
    traffic = new Map();
    for (const link of all) {
      for (const name of [link.a, link.b]) {
        if (!traffic.has(name)) traffic.set(name, { bytes: 0, messages: 0, links: [] });
        const own = traffic.get(name);
        own.bytes += link.bytes_per_s;
        own.messages += link.messages_per_s;
        own.links.push(link);
      }
    }
  }

  return { elements: [empty, element, caption, legend], update };
}

function makeLegend() {
  const element = make("p", { class: "mpreg-legend", "aria-hidden": "true" });
  for (const state of ["alive", "suspect", "dead", "left"]) {
    const shape = shapeOf();
    shape.update(nodeLook(state));
    element.append(
      make(
        "span",
        { class: "mpreg-badge" },
        draw("svg", { viewBox: "0 0 12 12" }, shape.element),
        make("span", { text: state }),
      ),
    );
  }
  const arc = draw("circle", {
    cx: 6,
    cy: 6,
    r: 4.6,
    class: "mpreg-node-load",
    fill: "none",
    "stroke-dasharray": "18 29",
  });
  element.append(
    make(
      "span",
      { class: "mpreg-badge" },
      draw("svg", { viewBox: "0 0 12 12" }, arc),
      make("span", { text: "busy slots" }),
    ),
    make("span", { class: "mpreg-badge" }, make("span", { text: "wider link: more bytes per second" })),
  );
  return element;
}
