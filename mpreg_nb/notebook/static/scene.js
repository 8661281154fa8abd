// scene.js: the drawing of a workflow, laid out by Python, whose boxes fill here.

import { draw, fitted, keyedList, make, put, write } from "./dom.js";
import { NOTHING } from "./figures.js";
import { shapeOf, stepLook } from "./marks.js";

const FONT = "system-ui, sans-serif";
const PAD_PX = 10;
const MARGIN_PX = 6;

export function makeScene({ tip }) {
  const arrowLayer = draw("g", { class: "mpreg-arrows" });
  const boxLayer = draw("g");
  const image = draw(
    "svg",
    { class: "mpreg-scene", role: "group", "aria-label": "Steps of the workflow" },
    arrowLayer,
    boxLayer,
  );
  const element = make("div", { class: "mpreg-scroll mpreg-figure" }, image);
  const boxes = keyedList(boxLayer, () => makeStepBox(tip, step));
  const arrows = keyedList(arrowLayer, () => makeArrow());
  let statuses = new Map();
  let reached = null; // the name of the box that Tab reaches

  // Arrow keys go from step to step; Tab leaves the drawing.
  function step(event, name) {
    const names = [...statuses.keys()];
    const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Escape") tip.hide();
    if (!(event.key in ways)) return;
    event.preventDefault();
    const place = names.indexOf(name) + ways[event.key] + names.length;
    reached = names[place % names.length];
    put(boxes.parts.get(name).element, "tabindex", "-1");
    put(boxes.parts.get(reached).element, "tabindex", "0");
    boxes.parts.get(reached).element.focus();
  }

  function update(scene) {
    element.hidden = scene.boxes.length === 0;
    const [width, height] = [(scene.width ?? 0) + 2 * MARGIN_PX, (scene.height ?? 0) + 2 * MARGIN_PX];
    put(image, "viewBox", `${-MARGIN_PX} ${-MARGIN_PX} ${width} ${height}`);
    // Smaller than two thirds could not be read: then it scrolls.
    put(image, "style", `max-width:${width}px;min-width:${(width * 0.66).toFixed(0)}px`);
    statuses = new Map(scene.boxes.map((box) => [box.name, box.status]));
    if (!statuses.has(reached)) reached = scene.boxes[0]?.name ?? null;
    arrows.update(
      scene.arrows.map((arrow) => ({ ...arrow, passed: statuses.get(arrow.from) === "done" })),
      (arrow) => JSON.stringify([arrow.from, arrow.to, arrow.kind]),
    );
    boxes.update(
      scene.boxes.map((box) => ({ ...box, reached: box.name === reached })),
      (box) => box.name,
    );
  }

  return { element, update };
}

function makeStepBox(tip, step) {
  const behind = [8, 4].map((shift) => draw("rect", { class: "mpreg-card-behind", "data-shift": shift }));
  const ground = draw("rect", { class: "mpreg-box-ground", rx: 6 });
  const name = draw("text", { class: "mpreg-box-name" });
  const work = draw("text", { class: "mpreg-box-work" });
  const shape = shapeOf();
  const mark = draw("g", {}, shape.element);
  const said = draw("text", { class: "mpreg-box-said" });
  const element = draw("g", { class: "mpreg-box", role: "img" });
  element.append(...behind, ground, name, work, mark, said);
  let box = null;
  tip.tell(element, () => ({
    title: box.name,
    rows: [
      ["function", box.function || NOTHING],
      ["status", box.status || NOTHING],
      ...(box.detail ? [["so far", box.detail]] : []),
      ...(box.undo ? [["undone by", box.undo]] : []),
    ],
  }));
  element.addEventListener("keydown", (event) => step(event, box.name));

  function update(now) {
    box = now;
    const look = stepLook(box.status);
    put(element, "transform", `translate(${box.x} ${box.y})`);
    put(element, "data-status", box.status || "none");
    put(element, "data-kind", box.kind);
    put(element, "tabindex", box.reached ? "0" : "-1");
    put(element, "aria-label", [box.name, box.function, box.status, box.detail].filter(Boolean).join(", "));
    put(element, "class", `mpreg-box mpreg-tone-${look.tone}`);
    for (const card of behind) {
      const shift = Number(card.dataset.shift);
      card.style.display = box.kind === "map" ? "" : "none";
      put(card, "transform", `translate(${shift} ${-shift})`);
      resize(card);
    }
    resize(ground);
    put(ground, "rx", box.kind === "input" ? Math.min(18, box.h / 2) : 6);
    const room = box.w - 2 * PAD_PX;
    const small = box.h < 44;
    place(name, PAD_PX, small ? box.h / 2 + 4.5 : 21, fitted(box.name, room, `600 13px ${FONT}`));
    const second = [box.function, box.undo ? `undo: ${box.undo}` : ""].filter(Boolean).join(" · ");
    place(work, PAD_PX, 37, small ? "" : fitted(second, room, `11.5px ${FONT}`));
    const words = [box.status, box.detail].filter(Boolean).join(" · ");
    const visible = Boolean(box.status) && !small;
    mark.style.display = visible ? "" : "none";
    shape.update(look);
    put(mark, "transform", `translate(${PAD_PX} ${box.h - PAD_PX - 10})`);
    place(said, PAD_PX + 17, box.h - PAD_PX, visible ? fitted(words, room - 17, `11px ${FONT}`) : "");
  }

  function resize(rectangle) {
    put(rectangle, "width", box.w);
    put(rectangle, "height", box.h);
    put(rectangle, "rx", 6);
  }

  function place(text, x, y, words) {
    put(text, "x", x);
    put(text, "y", y);
    write(text, words);
  }

  return { element, update };
}

function makeArrow() {
  const line = draw("path", { fill: "none", class: "mpreg-arrow-line" });
  const head = draw("path", { class: "mpreg-arrow-head" });
  const element = draw("g", { "aria-hidden": "true" }, line, head);

  function update({ points, kind, passed }) {
    const [endX, endY] = points[points.length - 1];
    const [beforeX, beforeY] = points[points.length - 2];
    const flat = Math.abs(endX - beforeX) >= Math.abs(endY - beforeY);
    const sign = flat ? Math.sign(endX - beforeX) || 1 : Math.sign(endY - beforeY) || 1;
    const neck = flat ? [endX - 8 * sign, endY] : [endX, endY - 8 * sign];
    put(line, "d", curve([...points.slice(0, -1), neck], flat));
    const [across, along] = flat ? [[0, 3.5], neck] : [[3.5, 0], neck];
    put(
      head,
      "d",
      `M${endX} ${endY}L${along[0] - across[0]} ${along[1] - across[1]}` +
        `L${along[0] + across[0]} ${along[1] + across[1]}z`,
    );
    put(element, "data-kind", kind);
    put(element, "data-passed", passed);
  }

  return { element, update };
}

// Smooth steps through the points that leave and arrive along the layers.
function curve(points, flat) {
  let way = `M${points[0].join(" ")}`;
  for (let index = 1; index < points.length; index += 1) {
    const [[fromX, fromY], [toX, toY]] = [points[index - 1], points[index]];
    const [midX, midY] = [(fromX + toX) / 2, (fromY + toY) / 2];
    way += flat
      ? `C${midX} ${fromY} ${midX} ${toY} ${toX} ${toY}`
      : `C${fromX} ${midY} ${toX} ${midY} ${toX} ${toY}`;
  }
  return way;
}
