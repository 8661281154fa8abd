// members.js: the nodes as a table, and the drill that kills one of them.

import { make, put, write } from "./dom.js";
import { count, counted, megabytes, milliseconds, percent, seconds, NOTHING } from "./figures.js";
import { nodeBadge } from "./marks.js";
import { makeAsking, makeBar, makeChips, makeEmpty, makeSpark } from "./controls.js";
import { makeTable } from "./table.js";

const STATE_ORDER = ["dead", "suspect", "left", "alive"];

export function membersView({ tip, kept, send, redraw }) {
  const empty = makeEmpty("No node is known yet.");
  const pending = new Map(); // node -> the note that was shown when it was asked for
  let drills = false;
  let note = "";
  let everyS = 2;

  const columns = [
    {
      key: "node",
      word: "Node",
      hint: "Sort by name",
      sort: (row) => row.node,
      cell: nameCell,
    },
    {
      key: "state",
      word: "State",
      hint: "Sort by state, failed nodes first",
      sort: (row) => STATE_ORDER.indexOf(row.state),
      cell: stateCell,
    },
    {
      key: "busy",
      word: "Busy",
      hint: "Running calls, of all slots",
      sort: (row) => (row.slots ? row.busy / row.slots : null),
      cell: busyCell,
    },
    {
      key: "queued",
      word: "Queue",
      hint: "Calls that wait for a slot",
      number: true,
      sort: (row) => row.queued,
      cell: () => textCell((row) => count(row.queued)),
    },
    {
      key: "rtt",
      word: "RTT",
      hint: "Round-trip time from the node that this notebook is connected to",
      number: true,
      sort: (row) => row.rtt_ms,
      cell: () => textCell((row) => milliseconds(row.rtt_ms)),
    },
    {
      key: "cpu",
      word: "CPU",
      hint: "Percent of one core, used by the node and its workers",
      number: true,
      sort: (row) => row.cpu_percent,
      cell: () =>
        courseCell({
          least: 5,
          zero: true,
          name: "CPU",
          course: (row) => row.cpu,
          words: (row) => percent(row.cpu_percent),
          unit: percent,
        }),
    },
    {
      key: "memory",
      word: "Memory",
      hint: "Resident memory of the node and its workers",
      number: true,
      sort: (row) => row.memory_mb,
      cell: () =>
        courseCell({
          least: 4,
          zero: false,
          name: "Memory",
          course: (row) => row.memory,
          words: (row) => megabytes(row.memory_mb),
          unit: megabytes,
        }),
    },
    {
      key: "functions",
      word: "Functions",
      hint: "Functions that the node serves",
      number: true,
      sort: (row) => row.functions,
      cell: () => textCell((row) => count(row.functions)),
    },
    { key: "resources", word: "Resources", hint: "Resources that the node holds", cell: chipsCell },
    {
      key: "uptime",
      word: "Uptime",
      hint: "Time since the node started",
      number: true,
      sort: (row) => row.uptime_s,
      cell: () => textCell((row) => seconds(row.uptime_s)),
    },
    { key: "drill", word: "Test failure", hint: "For nodes that this notebook started", cell: killCell },
  ];
  const table = makeTable({
    label: "Members of the cluster",
    columns,
    keyOf: (row) => row.node,
    kept,
    redraw,
  });

  function nameCell() {
    const name = make("span", { class: "mpreg-name", tabindex: "-1" });
    let row = null;
    tip.tell(name, () => ({
      title: row.node,
      rows: [
        ["host", row.host || NOTHING],
        ["python", row.python || NOTHING],
        ["workers", `${count(row.workers)} × ${counted(row.slots / (row.workers || 1), "slot")}`],
        ["uptime", seconds(row.uptime_s)],
        ["resources", row.resources.join(", ") || "none"],
      ],
      note: row.own ? "Started by this notebook." : "Not started by this notebook.",
    }));
    return {
      element: name,
      update: (now) => {
        row = now;
        write(name, now.node);
      },
    };
  }

  function stateCell() {
    const state = nodeBadge();
    return { element: state.element, update: (row) => state.update(row.state) };
  }

  function busyCell() {
    const bar = makeBar();
    return {
      element: bar.element,
      update: (row) =>
        bar.update(
          row.busy ?? 0,
          row.slots,
          row.busy === null ? count(null) : `${count(row.busy)}/${count(row.slots)}`,
        ),
    };
  }

  function textCell(words) {
    const element = make("span", { class: "mpreg-number" });
    return { element, update: (row) => write(element, words(row)) };
  }

  function courseCell({ least, zero, name, course, words, unit }) {
    const spark = makeSpark({ least });
    const text = make("span", { class: "mpreg-number" });
    const element = make("span", { class: "mpreg-course" }, spark.element, text);
    let row = null;
    tip.tell(element, () => {
      const numbers = course(row);
      const past = numbers.length
        ? [
            ["lowest", unit(Math.min(...numbers))],
            ["highest", unit(Math.max(...numbers))],
            ["shown", seconds(numbers.length * everyS)],
          ]
        : [];
      return { title: `${name} of ${row.node}`, rows: [["now", words(row)], ...past] };
    });
    return {
      element,
      update: (now) => {
        row = now;
        spark.update(course(now), { zero });
        write(text, words(now));
      },
    };
  }

  function chipsCell() {
    const chips = makeChips();
    return { element: chips.element, update: (row) => chips.update(row.resources) };
  }

  function killCell() {
    let row = null;
    const asking = makeAsking({
      word: "Kill",
      confirm: "Kill",
      question: () => "Really?",
      act: () => {
        pending.set(row.node, note);
        send({ do: "kill", node: row.node });
      },
    });
    return {
      element: asking.element,
      update: (now) => {
        row = now;
        const alive = row.state === "alive" || row.state === "suspect";
        asking.update({
          label: `Kill node ${row.node}`,
          waiting: "sent …",
          usable: drills && row.own && alive,
        });
        // Another note or a state that ended is the answer.
        if (!pending.has(row.node)) return;
        if (alive && pending.get(row.node) === note) return;
        pending.delete(row.node);
        asking.reset();
      },
    };
  }

  function update(picture, head) {
    const rows = picture.rows ?? [];
    drills = Boolean(head.drills) && head.state === "live";
    note = `${head.note}|${head.error}`;
    everyS = picture.every_s ?? 2;
    empty.hidden = rows.length > 0;
    table.element.hidden = rows.length === 0;
    put(table.element, "data-drills", drills && rows.some((row) => row.own));
    table.update(rows);
  }

  return { elements: [empty, table.element], update };
}
