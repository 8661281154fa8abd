// runs.js: the newest runs of this notebook: list, drawing that fills, bars by node.

import { keyedList, make, put, write } from "./dom.js";
import { count, counted, milliseconds } from "./figures.js";
import { stepBadge } from "./marks.js";
import { makeAsking, makeBar, makeEmpty } from "./controls.js";
import { makeScene } from "./scene.js";
import { makeGantt } from "./gantt.js";

export function runsView({ tip, kept, send, redraw, widthOf }) {
  const empty = makeEmpty("No runs yet. Start one:", "flow.start()");
  const list = make("div", {
    class: "mpreg-runs",
    role: "radiogroup",
    "aria-label": "Runs, newest first",
    onkeydown: step,
  });
  const cards = keyedList(list, (run) => makeCard(run));
  const title = make("strong", { class: "mpreg-name" });
  const facts = make("span", { class: "mpreg-soft" });
  const pending = new Map(); // run -> the note that was shown when it was asked for
  let chosen = null;
  let note = "";
  const cancel = makeAsking({
    word: "Cancel run",
    confirm: "Cancel run",
    question: () => `Cancel ${chosen.workflow}?`,
    act: () => {
      pending.set(chosen.run, note);
      send({ do: "cancel", run: chosen.run });
    },
  });
  const line = make("div", { class: "mpreg-toolbar" }, title, facts, cancel.element);
  const scene = makeScene({ tip });
  const gantt = makeGantt({ tip, kept });
  const detail = make("div", { class: "mpreg-run" }, line, scene.element, gantt.element);

  function makeCard(run) {
    const name = make("span", { class: "mpreg-name" });
    const status = stepBadge();
    const bar = makeBar();
    const time = make("span", { class: "mpreg-soft mpreg-number" });
    const element = make(
      "button",
      { type: "button", role: "radio", class: "mpreg-run-card", onclick: () => pick(run) },
      name,
      status.element,
      bar.element,
      time,
    );

    function update(now) {
      const here = now.run === chosen?.run;
      write(name, now.workflow);
      put(name, "title", now.workflow);
      status.update(now.status);
      bar.update(now.done, now.steps, `${count(now.done)}/${count(now.steps)} steps`);
      write(time, milliseconds(now.duration_ms));
      put(element, "aria-checked", here ? "true" : "false");
      put(element, "tabindex", here ? "0" : "-1");
    }

    return { element, update };
  }

  function pick(run) {
    kept.run = run;
    redraw();
  }

  function step(event) {
    const keys = [...cards.parts.keys()];
    const here = keys.indexOf(chosen?.run);
    const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (!(event.key in ways) || here < 0) return;
    event.preventDefault();
    // The order on the page, not the order in which the cards were made.
    const elements = [...list.children];
    const place = elements.indexOf(cards.parts.get(keys[here]).element);
    const next = elements[(place + ways[event.key] + elements.length) % elements.length];
    pick(keys.find((key) => cards.parts.get(key).element === next));
    next.focus();
  }

  function update(picture, head) {
    const runs = picture.runs ?? [];
    chosen = runs.find((run) => run.run === kept.run) ?? runs[0] ?? null;
    note = `${head.note}|${head.error}`;
    empty.hidden = chosen !== null;
    list.hidden = detail.hidden = chosen === null;
    cards.update(runs, (run) => run.run);
    if (chosen === null) return;
    write(title, chosen.workflow);
    const failed = chosen.failed ? ` · ${count(chosen.failed)} failed` : "";
    write(
      facts,
      `${chosen.status} · ${count(chosen.done)} of ${counted(chosen.steps, "step")} done` +
        `${failed} · ${milliseconds(chosen.duration_ms)}`,
    );
    const running = chosen.status === "running";
    cancel.update({
      label: `Cancel run of ${chosen.workflow}`,
      waiting: "sent …",
      usable: running && head.state === "live",
    });
    const asked = pending.get(chosen.run);
    if (asked === undefined || !running || asked !== note) {
      pending.delete(chosen.run);
      cancel.reset();
    }
    scene.update(chosen.scene ?? { boxes: [], arrows: [] }, widthOf());
    gantt.update(chosen.bars ?? [], chosen.duration_ms ?? 0, widthOf());
  }

  return { elements: [empty, list, detail], update, resized: true };
}
