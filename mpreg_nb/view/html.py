"""Cards: a cluster, a run, a registration, each as text and as HTML.

Without script and style sheet, so that a saved or an untrusted notebook shows the
same. In plain mode they hold nothing that differs from run to run.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

from mpreg_nb.cures import list_nodes
from mpreg_nb.protocol.messages import NodeSnapshot, Snapshot, StepSnapshot
from mpreg_nb.transport.tls import ends_soon
from mpreg_nb.units import count, duration, size
from mpreg_nb.view import palette
from mpreg_nb.view.diagram_svg import Drawing
from mpreg_nb.view.diagram_text import MARKS, STATE_MARKS
from mpreg_nb.view.format import explained, nodes
from mpreg_nb.view.frames import served
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Marked, Table, safe
from mpreg_nb.view.terminal import shown
from mpreg_nb.workflows.graph import Diagram

if TYPE_CHECKING:
    from mpreg_nb.client.registrations import Card


MOST_NODES = 20
MOST_FUNCTIONS = 12
MOST_STEPS = 60
MOST_NODES_OF_STEP = 4
"""What a card shows; frames show all."""

# Marks for pages that may be light or dark.
GREY, GREEN, BLUE = palette.IDLE.mark, palette.GOOD.mark, palette.BUSY.mark
ORANGE, RED = palette.WARN.mark, palette.BAD.mark
STATES = {
    state: (STATE_MARKS[state], palette.NODES[state].mark) for state in STATE_MARKS
}
INKS = {status: tone.mark for status, tone in palette.STATUSES.items()}

WIDE = "overflow-x:auto"
"""What is wider than the page is scrolled, not broken."""

Bundle = dict[str, str]


def chosen(
    bundle: Bundle,
    include: Container[str] | None = None,
    exclude: Container[str] | None = None,
) -> Bundle:
    """Return the part of `bundle` that a front end asks for."""
    return {
        mime: content
        for mime, content in bundle.items()
        if (not include or mime in include) and not (exclude and mime in exclude)
    }


# ------------------------------------------------------------------- cluster


def outline(snapshot: Snapshot, calls: int) -> str:
    """Return the state of a cluster in one line; `calls` are those of this kernel."""
    states = Counter(p.record.state.name.lower() for p in snapshot.nodes)
    said = [f"{states[state]} {state}" for state in STATES if states[state]]
    return " · ".join(
        [
            f"{count(len(snapshot.nodes), 'node')}: {', '.join(said) or 'none'}",
            count(len(served(snapshot)), "function"),
            f"{count(calls, 'call')} from here",
        ]
    )


class StatusCard:
    """A cluster at one moment: its nodes, its functions, and the number of calls."""

    def __init__(self, snapshot: Snapshot, calls: int, carried: str = "") -> None:
        """Show this state.

        calls: the number of calls that this kernel made.
        carried: what carries its links.
        """
        functions = served(snapshot)
        self._title = outline(snapshot, calls)
        self._functions = _listed(functions, MOST_FUNCTIONS)
        self._table = _nodes(snapshot, [nodes for _, nodes in functions.values()])
        self._notes = [f"functions: {self._functions}"] if self._functions else []
        sharing = {
            picture.record.name: picture.load.shared_memory_mb
            for picture in snapshot.nodes
            if picture.load is not None and picture.load.shared_memory_mb
        }
        if sharing and not plain():
            said = (f"{name} {mb:,} MB" for name, mb in sharing.items())
            self._notes.append(f"shared memory: {_listed(said, MOST_FUNCTIONS)}")
        if carried and not plain():
            self._notes.append(f"connected {carried}")
        ending = {
            picture.record.name: ends_soon(picture.record.certificate_ends_s)
            for picture in snapshot.nodes
            if picture.record.certificate_ends_s
        }
        self._notes += [
            f"the certificate of {name} {ends}" for name, ends in ending.items() if ends
        ]

    def __str__(self) -> str:
        lines = [f"Cluster of {self._title}", str(self._table), *self._notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return shown(self)

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{safe(note)}</div>" for note in self._notes)
        return (
            f'<div style="{WIDE}"><div><b>Cluster</b> of {safe(self._title)}</div>'
            f"{self._table.html}{notes}</div>"
        )

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Bundle:
        bundle = {"text/plain": shown(self), "text/html": self._repr_html_()}
        return chosen(bundle, include, exclude)


def _nodes(snapshot: Snapshot, serving: Sequence[Sequence[str]]) -> Table:
    hidden = plain()
    rows = []
    for picture in snapshot.nodes[:MOST_NODES]:
        record = picture.record
        state = record.state.name.lower()
        row: list[Cell] = [
            record.name,
            Marked(STATES[state][0], state, STATES[state][1]),
            ", ".join(sorted(record.resources)),
            str(sum(record.name in nodes for nodes in serving)),
        ]
        rows.append(row if hidden else row + _load(picture))
    head = ["node", "state", "resources", "functions"]
    numbers = ["functions", "busy", "queued", "RTT, ms", "memory, MB"]
    more = len(snapshot.nodes) - MOST_NODES
    return Table(
        head=head if hidden else head + numbers[1:],
        rows=rows,
        numbers=numbers,
        more=f"… and {more:,} more: {list_nodes()}" if more > 0 else "",
    )


def _load(picture: NodeSnapshot) -> list[Cell]:
    load, rtt_ms = picture.load, picture.rtt_ms
    rtt = "" if rtt_ms is None else f"{rtt_ms:.2f}"
    if load is None:
        return ["", "", rtt, ""]
    busy = f"{load.running} of {load.slots}"
    return [busy, str(load.queued), rtt, str(load.memory_mb)]


def _listed(names: Iterable[str], most: int) -> str:
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---------------------------------------------------------------- workflows


def run_bundle(
    text: str,
    steps: Sequence[StepSnapshot],
    diagram: Diagram,
    include: Container[str] | None = None,
    exclude: Container[str] | None = None,
) -> Bundle:
    """Return what a run shows: `text`, the workflow with states, a row a step."""
    drawing = Drawing.of_run(diagram, steps)
    html = (
        f'<div style="{WIDE}"><div>{safe(text)}</div>{drawing._repr_html_()}'
        f"{_steps(steps, diagram).html}</div>"
    )
    bundle = {"text/plain": f"{text}\n{drawing}", "text/html": html}
    return chosen(bundle, include, exclude)


def _steps(steps: Sequence[StepSnapshot], diagram: Diagram) -> Table:
    functions = {box.name: box.function for box in diagram.boxes}
    hidden = plain()
    rows = []
    for step in steps[:MOST_STEPS]:
        row: list[Cell] = [
            step.name,
            functions.get(step.name, ""),
            _status(step),
            nodes(step, MOST_NODES_OF_STEP),
            str(step.attempts),
        ]
        if not hidden:
            times = (step.queued_ms, step.run_ms)
            row += ["" if ms is None else duration(ms) for ms in times]
        row.append("" if step.result_bytes is None else size(step.result_bytes))
        rows.append(row)
    more = len(steps) - MOST_STEPS
    shown = [] if hidden else ["queued", "run"]
    return Table(
        head=["step", "function", "status", "node", "attempts", *shown, "result"],
        rows=rows,
        numbers=["attempts", "queued", "run", "result"],
        more=f"… and {more:,} more: run.frame()" if more > 0 else "",
    )


def _status(step: StepSnapshot) -> Marked:
    return Marked(
        MARKS.get(step.status, "○"), explained(step), INKS.get(step.status, GREY)
    )


# ------------------------------------------------------------- registrations


def registration_bundle(
    cards: "Sequence[Card]",
    include: Container[str] | None = None,
    exclude: Container[str] | None = None,
) -> Bundle:
    """Return what registrations show: name, version, nodes, size, captures."""
    bundle = {
        "text/plain": "\n".join(map(str, cards)),
        "text/html": "".join(map(_registration, cards)),
    }
    return chosen(bundle, include, exclude)


def _registration(card: "Card") -> str:
    where = _listed(card.nodes, MOST_NODES) or (f"no node yet (needs {card.needs})")
    warnings = str(card).splitlines()[1:]
    captures = ""
    if card.captures:
        more = len(card.captures) - MOST_FUNCTIONS
        captures = Table(
            head=["captures", "type", "size"],
            rows=[
                (found.name, found.type_name, size(found.size_bytes))
                for found in card.captures[:MOST_FUNCTIONS]
            ],
            numbers=["size"],
            more=f"… and {more:,} more" if more > 0 else "",
        ).html
    return (
        f"<div><div><b>{safe(card.function)}</b> "
        f"<code>{safe(card.version[:6])}</code> → {safe(where)} · "
        f"{size(card.size_bytes)}</div>{captures}"
        + "".join(f"<div>▲ {safe(warning.strip())}</div>" for warning in warnings)
        + "</div>"
    )
