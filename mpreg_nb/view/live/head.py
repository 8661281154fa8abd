"""The head of a panel: one line that says how the cluster is."""

from typing import Any

from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.view.diagram_text import printable
from mpreg_nb.view.html import outline
from mpreg_nb.view.live.pace import CallRate
from mpreg_nb.view.live.sparks import spark
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import safe


def picture(
    snapshot: Snapshot, calls: int, pace: CallRate, *, drills: bool
) -> dict[str, Any]:
    """Return the head of a panel that is live and has nothing to report.

    calls: how many this kernel made.
    pace: how many of them ended in each second.
    drills: whether this kernel may kill the nodes.
    """
    line = outline(snapshot, calls)
    return {
        "line": line,
        "calls_per_s": pace.now,
        "course": pace.rates(),
        "state": "live",
        "note": "",
        "error": "",
        "drills": drills,
    }


def text(picture: dict[str, Any]) -> str:
    """Return the head as one line, and another for what went wrong."""
    lines = [_line(picture)]
    if picture["error"]:
        lines.append(f"✗ {printable(picture['error'])}")
    return "\n".join(lines)


def html(picture: dict[str, Any]) -> str:
    """Return the head as HTML."""
    error = f"<div>✗ {safe(picture['error'])}</div>" if picture["error"] else ""
    return f"<div><b>{safe(_line(picture))}</b>{_course(picture)}</div>{error}"


def _line(picture: dict[str, Any]) -> str:
    ended = "" if picture["state"] == "live" else " · ended, this is the last state"
    rate = _rate(picture)
    said = f" · {rate}" if rate and not ended else ""
    return f"{printable(picture['line'])}{said}{ended}"


def _rate(picture: dict[str, Any]) -> str:
    """Return how many calls end in a second; "" if none did in the last minute."""
    if plain() or not any(picture.get("course", ())):
        return ""
    rate = picture["calls_per_s"]
    return f"{rate:,.0f} calls/s" if rate >= 10 else f"{rate:.1f} calls/s"


def _course(picture: dict[str, Any]) -> str:
    if not _rate(picture):
        return ""
    return " " + spark(picture["course"], "calls a second in the last minute", most=1.0)
