"""A diagram as text: one line a step, with a graph of lines before it.

::

    sensor-report: 4 steps
    ○    raw     ingest                     on raw-data
    ├─○  clean   clean_data  ← raw          on cpu
    │ ○  stats   analyse     ← clean        on gpu       retry 2
    ○─╯  report  render      ← raw, stats

Each step stands below all that it waits for. A line begins at the step that gives
a result and ends at the last that takes it; it passes under the others on its way.
"""

import heapq
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from mpreg_nb.units import count
from mpreg_nb.view.graph_layout import Edge, without_cycles
from mpreg_nb.workflows.graph import Box, Diagram

MOST_LANES = 24
"""A graph of more lines side by side would push the names off the screen."""

MOST_LINES = 60
"""Of a diagram with more steps, so many are shown."""

NONE = "no steps"

TIMES = "×"  # noqa: RUF001 - not the letter

MARKS = {
    "waiting": "○",
    "running": "►",
    "done": "✓",
    "failed": "✗",
    "skipped": "»",
    "cancelled": "■",
    "fallback": "↳",
    "undone": "↶",
}
"""Status of a step or a run -> its mark."""

STATE_MARKS = {"alive": "●", "suspect": "◐", "dead": "✗", "left": "○"}
"""State of a node -> its mark."""


def printable(text: str) -> str:
    """Return `text` with what does not print written as an escape.

    >>> printable("a\\tb")
    'a\\\\tb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def columns(text: str) -> int:
    """Return how many columns of a terminal `text` takes.

    >>> columns("gpu"), columns("東京")
    (3, 4)
    """
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    joined = sum(unicodedata.combining(c) != 0 for c in text)
    return len(text) + wide - joined


def clipped(text: str, most: int) -> str:
    """Return `text`, its middle left out where it is longer than `most`.

    >>> clipped("preprocess-sensor-data", 11)
    'prepr…-data'
    """
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def _counted(diagram: Diagram) -> str:
    """Say how many steps there are; an input is none.

    >>> boxes = (Box(name="n", kind="input"), Box(name="a"))
    >>> _counted(Diagram(name="w", boxes=boxes, arrows=()))
    '1 step'
    """
    steps = sum(box.kind != "input" for box in diagram.boxes)
    return count(steps, "step") if diagram.boxes else NONE


def sentence(diagram: Diagram) -> str:
    """Say in words what the diagram shows, for those who cannot see it."""
    needs: dict[str, list[str]] = {box.name: [] for box in diagram.boxes}
    for arrow in diagram.arrows:
        needs[arrow.target].append(arrow.source)
    said = [
        f"{name} after {' and '.join(sources)}" if sources else name
        for name, sources in list(needs.items())[:20]
    ]
    more = f"; and {len(needs) - 20} more" if len(needs) > 20 else ""
    return printable(f"{_counted(diagram)}: {'; '.join(said)}{more}" if said else NONE)


def draw(
    diagram: Diagram,
    states: Mapping[str, str] | None = None,
    details: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> str:
    """Return `diagram` as lines of text; the same diagram gives the same lines.

    states: the status of each step, a word such as "running".
    details: more about the status, such as "on gpu-1, 1.2 s".
    counts: of a map, how many items it has.
    """
    states, details, counts = states or {}, details or {}, counts or {}
    boxes = {box.name: box for box in diagram.boxes}
    edges = without_cycles(
        list(boxes), [(arrow.source, arrow.target) for arrow in diagram.arrows]
    )
    order = _in_order(list(boxes), edges)
    marks = {
        name: _mark(box, states.get(name, "waiting")) for name, box in boxes.items()
    }
    needs = _needs(diagram)
    lanes = list(islice(_lanes(order, edges, marks), MOST_LINES))
    if max(map(len, lanes), default=0) > 2 * MOST_LANES:
        lanes = [marks[name] for name in order[:MOST_LINES]]
    rows = [
        [
            lane,
            name,
            " ".join(filter(None, (states.get(name), details.get(name)))),
            function_of(boxes[name], counts.get(name, 0)),
            needs[name],
            "on " + ", ".join(boxes[name].resources) if boxes[name].resources else "",
            ", ".join(_notes(boxes[name])),
        ]
        for lane, name in zip(lanes, order, strict=False)
    ]
    lines = [f"{printable(diagram.name)}: {_counted(diagram)}"]
    lines += _aligned(rows)
    if len(order) > MOST_LINES:
        lines.append(f"… and {len(order) - MOST_LINES:,} more")
    return "\n".join(lines)


def function_of(box: Box, count: int = 0) -> str:
    """Return what a box calls; `count` is how many items a map has, 0 if unknown.

    >>> function_of(Box(name="later", missing=True))
    'not there yet'
    """
    if box.missing:
        return "not there yet"
    if box.kind == "input":
        return box.function or "input"
    if box.kind == "map":
        return f"{box.function} {TIMES} {f'{count:,}' if count else 'n'}"
    return box.function


def _mark(box: Box, status: str) -> str:
    if box.missing:
        return "?"
    return "◇" if box.kind == "input" else MARKS.get(status, "○")


def _notes(box: Box) -> Iterator[str]:
    yield from box.notes
    if box.undo:
        yield f"undo {box.undo}"


def _needs(diagram: Diagram) -> dict[str, str]:
    results: dict[str, list[str]] = {box.name: [] for box in diagram.boxes}
    order_only: dict[str, list[str]] = {box.name: [] for box in diagram.boxes}
    for arrow in diagram.arrows:
        (order_only if arrow.order_only else results)[arrow.target].append(arrow.source)
    return {
        name: "; ".join(
            f"{word} {clipped(', '.join(steps), 48)}"
            for word, steps in (("←", results[name]), ("after", order_only[name]))
            if steps
        )
        for name in results
    }


def _in_order(names: Sequence[str], edges: Sequence[Edge]) -> list[str]:
    """Sort so that all arrows go down, else as given."""
    place = {name: index for index, name in enumerate(names)}
    targets: dict[str, list[str]] = {name: [] for name in names}
    missing = dict.fromkeys(names, 0)
    for source, target in edges:
        targets[source].append(target)
        missing[target] += 1
    ready = [place[name] for name in names if missing[name] == 0]
    order: list[str] = []
    while ready:
        order.append(names[heapq.heappop(ready)])
        for target in targets[order[-1]]:
            missing[target] -= 1
            if missing[target] == 0:
                heapq.heappush(ready, place[target])
    return order


def _lanes(
    order: Sequence[str], edges: Sequence[Edge], marks: Mapping[str, str]
) -> Iterator[str]:
    """Yield the lines of the graph before each step."""
    sources: dict[str, list[str]] = {name: [] for name in order}
    takers = dict.fromkeys(order, 0)  # not drawn yet
    for source, target in edges:
        sources[target].append(source)
        takers[source] += 1
    lanes: list[str] = []  # the step whose result each carries, or ""
    for name in order:
        joined = {lanes.index(source) for source in sources[name]}
        for source in sources[name]:
            takers[source] -= 1
        ending = {lane for lane in joined if takers[lanes[lane]] == 0}
        if ending:
            column = min(ending)
        else:
            column = lanes.index("") if "" in lanes else len(lanes)
        lanes += [""] * (column + 1 - len(lanes))
        yield _lane(lanes, column, joined, ending, marks[name])
        for lane in ending:
            lanes[lane] = ""
        lanes[column] = name if takers[name] else ""
        while lanes and not lanes[-1]:
            lanes.pop()


def _lane(
    lanes: Sequence[str], column: int, joined: set[int], ending: set[int], mark: str
) -> str:
    left, right = min([column, *joined]), max([column, *joined])
    drawn = ""
    for lane, carried in enumerate(lanes):
        if lane == column:
            drawn += mark
        elif lane in joined:
            ends = lane in ending
            if lane == left:
                drawn += "╰" if ends else "├"
            elif lane == right:
                drawn += "╯" if ends else "┤"
            else:
                drawn += "┴" if ends else "┼"
        elif carried:
            drawn += "│"
        else:
            drawn += "─" if left < lane < right else " "
        drawn += "─" if left <= lane < right else " "
    return drawn.rstrip()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - columns(cell))
            for cell, width in zip(row, widths, strict=True)
            if width
        ).rstrip()
        for row in shown
    ]
