"""One page about one run that a colleague can open: self-contained, of one file.

It asks for nothing from anywhere, has no script, follows the light or dark theme
of whoever reads it, and can be printed. Every text is escaped.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from mpreg_nb.protocol.gossip import MemberRecord
from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.units import count, duration, size
from mpreg_nb.view import diagram_svg, palette
from mpreg_nb.view.diagram_text import MARKS
from mpreg_nb.view.format import counts, details, explained, nodes, states
from mpreg_nb.view.html import GREY, INKS, MOST_NODES_OF_STEP, STATES
from mpreg_nb.view.palette import Colour
from mpreg_nb.view.tables import Cell, Marked, Table, safe
from mpreg_nb.view.timeline import LOOKS, bars_of, not_begun, timeline
from mpreg_nb.workflows.graph import Diagram

LEAST_SCALE = 0.6
"""Of the drawing of a workflow; its letters are small already."""


def _colours() -> str:
    """Return rules that name the colours of a light page, of a dark one, of paper."""
    named = {
        "ground": Colour("#ffffff", "#0d1117"),
        "ink": palette.INK,
        "soft": palette.SOFT,
        "line": palette.GRID,
        "card": palette.CARD,
        "bad": palette.BAD.ink,
        **LOOKS,
    }

    def values(*, dark: bool) -> str:
        return " ".join(f"--{name}: {c.on(dark=dark)};" for name, c in named.items())

    keys = " ".join(
        f".key.{status} {{ background: var(--{status}); }}" for status in LOOKS
    )
    return (
        f":root {{ color-scheme: light dark; {values(dark=False)} }}\n"
        "@media screen and (prefers-color-scheme: dark) { :root { "
        f"{values(dark=True)} }} }}\n{keys}"
    )


STYLE = (
    _colours()
    + """
* { box-sizing: border-box; }
body { background: var(--ground); color: var(--ink); margin: 0 auto;
  max-width: 1240px; padding: 28px 24px 48px; line-height: 1.45;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 10px; padding-bottom: 4px;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 15px; margin: 18px 0 6px; overflow-wrap: anywhere; }
p { margin: 4px 0; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
.wide { font-size: 14px; }
@media (max-width: 1000px) { .wide { font-size: 12.5px; } }
.fit svg { display: block; max-width: 100%; height: auto; }
.key { display: inline-block; width: 22px; height: 12px; margin: 0 6px 0 0;
  vertical-align: -1px; border: 1px solid var(--soft); }
.keys span { margin-right: 18px; white-space: nowrap; }
.waited { background: repeating-linear-gradient(135deg, transparent 0 3px,
  var(--soft) 3px 4.5px); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 10px 12px; margin: 6px 0; overflow: auto; max-height: 30em;
  font: 12.5px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; tab-size: 4; }
.bad { color: var(--bad); }
footer { margin-top: 36px; color: var(--soft); font-size: 13px; }
@media print { body { max-width: none; padding: 0; } pre { max-height: none;
  white-space: pre-wrap; overflow-wrap: anywhere; }
  .wide { overflow: visible; font-size: 10.5px; }
  .fit { min-width: 0 !important; }
  h2, h3 { break-after: avoid; } tr, svg { break-inside: avoid; }
  * { print-color-adjust: exact; } }
"""
)


class FailureSection(msgspec.Struct, frozen=True, kw_only=True):
    """Why a step failed: the class, what it says, and the remote traceback."""

    type_name: str
    message: str
    traceback: str = ""


class OutputSection(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a last step, or why it is not shown."""

    type_name: str = ""
    text: str = ""
    omitted: str = ""


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the page. Mappings are by step."""

    workflow: str
    run: str
    status: str
    started_at: datetime
    duration_ms: float
    steps: tuple[StepSnapshot, ...]
    diagram: Diagram
    failures: Mapping[str, FailureSection]
    outputs: Mapping[str, OutputSection]
    logs: Mapping[str, str]
    nodes: tuple[MemberRecord, ...]
    made_by: str  # programs and their versions


def report_page(report: RunReport) -> str:
    """Return the page as HTML."""
    sections = (
        *_head(report),
        *_workflow(report),
        *_timeline(report),
        *_steps(report),
        *_failures(report),
        *_outputs(report),
        *_logs(report),
        *_nodes(report),
        f"<footer>Made by {safe(report.made_by)}</footer>",
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Run of {safe(report.workflow)}: {safe(report.status)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _head(report: RunReport) -> Iterator[str]:
    yield f"<h1>{safe(report.workflow)}</h1>"
    numbers: dict[str, int] = {}
    for step in report.steps:
        numbers[step.status] = numbers.get(step.status, 0) + 1
    said = ", ".join(f"{number} {status}" for status, number in numbers.items())
    mark = MARKS.get(report.status, "")
    bad = ' class="bad"' if report.status == "failed" else ""
    yield (
        f"<p><b{bad}>{mark} {safe(report.status)}</b> · "
        f"{safe(duration(report.duration_ms))} · "
        f"{count(len(report.steps), 'step')}: {safe(said)}</p>"
    )
    for step in report.steps:
        if step.status == "failed":
            why = f"{step.name}: {step.error}" if step.error else f"{step.name} failed"
            yield f'<p class="bad">{safe(why)}</p>'
    yield (
        f'<p class="soft">Run {safe(report.run)}, started '
        f"{report.started_at:%Y-%m-%d %H:%M:%S %Z}</p>"
    )


def _workflow(report: RunReport) -> Iterator[str]:
    steps = report.steps
    drawing = diagram_svg.draw(
        report.diagram, states(steps), details(steps, timed=True), counts(steps)
    )
    # It shrinks with the page; below a readable size it scrolls.
    wide = re.search(r' width="(\d+)', drawing)
    least = LEAST_SCALE * float(wide[1]) if wide else 0.0
    inner = f'<div class="fit" style="min-width:{least:.0f}px">{drawing}</div>'
    yield f'<h2>Workflow</h2><div class="wide">{inner}</div>'


def _timeline(report: RunReport) -> Iterator[str]:
    yield "<h2>Which step ran when</h2>"
    chart = timeline(report.steps, report.duration_ms)
    if chart:
        shown = {bar.status for bar in bars_of(report.steps, report.duration_ms)}
        keys = "".join(
            f'<span><i class="key {status}"></i>{MARKS[status]} {status}</span>'
            for status in LOOKS
            if status in shown
        )
        keys += '<span><i class="key waited"></i>waited on its node</span>'
        yield f'<div class="fit">{chart}</div><p class="soft keys">{keys}</p>'
    idle = not_begun(report.steps)
    if idle:
        yield f'<p class="soft">{safe(idle)}</p>'


def _steps(report: RunReport) -> Iterator[str]:
    functions = {box.name: box.function for box in report.diagram.boxes}
    rows: list[list[Cell]] = []
    for step in report.steps:
        times = (
            "" if ms is None else duration(ms) for ms in (step.queued_ms, step.run_ms)
        )
        rows.append(
            [
                step.name,
                functions.get(step.name, ""),
                Marked(
                    MARKS[step.status], explained(step), INKS.get(step.status, GREY)
                ),
                nodes(step, MOST_NODES_OF_STEP),
                step.version[:6],
                str(step.attempts),
                *times,
                "" if step.result_bytes is None else size(step.result_bytes),
            ]
        )
    head = ["step", "function", "status", "node", "version", "attempts"]
    numbers = ["attempts", "queued", "run", "result"]
    table = Table(head=[*head, *numbers[1:]], rows=rows, numbers=numbers)
    yield f'<h2>Steps</h2><div class="wide">{table.wrapped_html}</div>'


def _failures(report: RunReport) -> Iterator[str]:
    stay = [step for step in report.steps if step.undo_error]
    if not report.failures and not stay:
        return
    yield "<h2>Errors</h2>"
    for step in stay:
        yield f"<h3>{safe(step.name)}: its undo failed</h3>"
        yield f'<p class="bad">{_lines(step.undo_error)}</p>'
    for name, failure in report.failures.items():
        yield f"<h3>{safe(name)}</h3>"
        said = ": ".join(filter(None, (failure.type_name, failure.message)))
        yield f'<p class="bad">{_lines(said)}</p>'
        if failure.traceback:
            yield f"<pre>{_lines(failure.traceback)}</pre>"


def _outputs(report: RunReport) -> Iterator[str]:
    if not report.outputs:
        return
    yield "<h2>Outputs</h2>"
    for step, output in report.outputs.items():
        kind = f' <span class="soft">{safe(output.type_name)}</span>'
        yield f"<h3>{safe(step)}{kind if output.type_name else ''}</h3>"
        if output.omitted:
            yield f'<p class="soft">{safe(output.omitted)}</p>'
        else:
            yield f"<pre>{_lines(output.text)}</pre>"


def _logs(report: RunReport) -> Iterator[str]:
    if not report.logs:
        return
    yield "<h2>What the steps printed</h2>"
    for step, log in report.logs.items():
        yield f"<h3>{safe(step)}</h3><pre>{_lines(log)}</pre>"


def _nodes(report: RunReport) -> Iterator[str]:
    if not report.nodes:
        return
    table = Table(
        head=["node", "state", "resources", "workers", "slots", "Python"],
        rows=[
            (
                node.name,
                _state(node.state.name.lower()),
                ", ".join(sorted(node.resources)),
                str(node.workers),
                str(node.slots),
                node.python,
            )
            for node in report.nodes
        ],
        numbers=["workers", "slots"],
    )
    yield (
        '<h2>Cluster</h2><p class="soft">as it was when this page was written</p>'
        f'<div class="wide">{table.wrapped_html}</div>'
    )


def _state(state: str) -> Marked:
    mark, ink = STATES[state]
    return Marked(mark, state, ink)


def _lines(text: str) -> str:
    """Escape each line; only the breaks between them and tabs are kept."""
    return "\n".join(
        "\t".join(map(safe, line.split("\t"))) for line in text.splitlines()
    )
