// scene.js: the drawing of a workflow, laid out by Python, whose boxes fill here.

import { draw, fitted, keyedList, make, put, textWidth, write } from "./dom.js";
import { NOTHING } from "./figures.js";
import { shapeOf, stepLook } from "./marks.js";

const FONT = "system-ui, sans-serif";
const PAD_PX = 10;
const MARGIN_PX = 6;
const HEAD_PX = 8; // of an arrow
const SMALLEST = 0.8; // of the size that was laid out: smaller could not be read
const TALLEST_PX = 540;
const CHIP_FONT = `10.5px ${FONT}`;

export function makeScene({ tip }) {
  const arrowLayer = draw("g", { class: "mpreg-arrows" });
  const boxLayer = draw("g");
  const image = draw(
    "svg",
    { class: "mpreg-scene", role: "group", "aria-label": "Steps of the workflow" },
    arrowLayer,
    boxLayer,
  );
  const element = make("div", { class: "mpreg-scroll mpreg-figure", role: "group", "aria-label": "Drawing" }, image);
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

  function update(scene, room) {
    element.hidden = scene.boxes.length === 0;
    const [width, height] = [(scene.width ?? 0) + 2 * MARGIN_PX, (scene.height ?? 0) + 2 * MARGIN_PX];
    put(image, "viewBox", `${-MARGIN_PX} ${-MARGIN_PX} ${width} ${height}`);
    const fits = Math.min(1, room / width, TALLEST_PX / height);
    const scale = Math.max(SMALLEST, fits); // what is still too large scrolls
    put(image, "width", (scale * width).toFixed(0));
    put(image, "height", (scale * height).toFixed(0));
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
  const chips = draw("g");
  const chipList = keyedList(chips, () => makeSceneChip());
  const shape = shapeOf();
  const mark = draw("g", {}, shape.element);
  const said = draw("text", { class: "mpreg-box-said" });
  const element = draw("g", { class: "mpreg-box", role: "img" });
  element.append(...behind, ground, name, work, chips, mark, said);
  let box = null;
  tip.tell(element, () => (box.kind === "undo" ? figuresOfUndo() : figuresOfStep()));
  element.addEventListener("keydown", (event) => step(event, box.name));

  function figuresOfUndo() {
    return { title: box.function, note: `Undoes ${box.undo} if a later step fails.` };
  }

  function figuresOfStep() {
    return {
      title: box.name,
      rows: [
        ["function", box.function || NOTHING],
        ["status", box.status || NOTHING],
        ...(box.detail ? [["so far", box.detail]] : []),
        ...(box.undo ? [["undone by", box.undo]] : []),
      ],
    };
  }

  function sayStep() {
    if (box.kind === "undo") return `${box.function}, undoes ${box.undo}`;
    return [box.name, box.function, box.status, box.detail].filter(Boolean).join(", ");
  }

  function update(now) {
    box = now;
    const look = stepLook(box.status);
    put(element, "transform", `translate(${box.x} ${box.y})`);
    put(element, "data-status", box.status || "none");
    put(element, "data-kind", box.kind);
    put(element, "tabindex", box.reached ? "0" : "-1");
    put(element, "aria-label", sayStep());
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
    const undo = box.kind === "undo";
    const small = undo || box.h < 44;
    const title = undo ? "" : fitted(box.name, room, `600 13px ${FONT}`);
    const second = undo ? `undo: ${box.function}` : box.function;
    place(name, PAD_PX, small ? box.h / 2 + 4.5 : 21, title);
    const shownWork = small && !undo ? "" : fitted(second, room, `11.5px ${FONT}`);
    place(work, PAD_PX, undo ? box.h / 2 + 4 : 37, shownWork);
    chipList.update(small ? [] : chipPlaces(box.resources ?? [], room), (chip) => chip.name);
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

// A resource of a step: `update` takes { name, x, y, width }.
function makeSceneChip() {
  const frame = draw("rect", { height: 16, rx: 8, class: "mpreg-scene-chip" });
  const text = draw("text", { class: "mpreg-scene-chip-text", "text-anchor": "middle" });
  const element = draw("g", {}, frame, text);

  function update({ name, x, y, width }) {
    put(element, "transform", `translate(${x.toFixed(1)} ${y})`);
    put(frame, "width", width.toFixed(1));
    put(text, "x", (width / 2).toFixed(1));
    put(text, "y", 11.7);
    write(text, fitted(name, width - 11, CHIP_FONT));
  }

  return { element, update };
}

// Rows of chips under the name of the function, as many as fit beside each other.
function chipPlaces(names, room) {
  let [x, y] = [PAD_PX, 45];
  return names.map((name) => {
    const width = Math.min(room, textWidth(name, CHIP_FONT) + 12);
    if (x > PAD_PX && x + width > PAD_PX + room) [x, y] = [PAD_PX, y + 20];
    const place = { name, x, y, width };
    x += width + 4;
    return place;
  });
}

function makeArrow() {
  const line = draw("path", { fill: "none", class: "mpreg-arrow-line" });
  const head = draw("path", { class: "mpreg-arrow-head" });
  const element = draw("g", { "aria-hidden": "true" }, line, head);

  function update({ points, kind, passed }) {
    const tip = points[points.length - 1];
    const before = points[points.length - 2];
    const length = Math.hypot(tip[0] - before[0], tip[1] - before[1]) || 1;
    const [dx, dy] = [(tip[0] - before[0]) / length, (tip[1] - before[1]) / length];
    const neck = [tip[0] - HEAD_PX * dx, tip[1] - HEAD_PX * dy];
    const bodies = length > HEAD_PX ? [...points.slice(0, -1), neck] : points.slice(0, -1);
    const wings = [1, -1].map((side) => [neck[0] - side * 3.5 * dy, neck[1] + side * 3.5 * dx]);
    put(line, "d", `M${bodies.map(rounded).join("L")}`);
    put(head, "d", `M${[tip, ...wings].map(rounded).join("L")}z`);
    put(element, "data-kind", kind);
    put(element, "data-passed", passed);
  }

  return { element, update };
}

const rounded = (point) => point.map((number) => number.toFixed(1)).join(" ");
