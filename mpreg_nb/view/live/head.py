"""The head of a panel: one line that says how the cluster is."""

from typing import Any

from mpreg_nb.view.html import outline
from mpreg_nb.view.tables import safe
from mpreg_nb.view.text import printable
from mpreg_nb.wire.pictures import Snapshot


def picture(snapshot: Snapshot, calls: int, *, drills: bool) -> dict[str, Any]:
    """Return the head of a panel that is live and has nothing to report.

    calls: how many this kernel made.
    drills: whether this kernel may kill the nodes.
    """
    line = outline(snapshot, calls)
    return {"line": line, "state": "live", "note": "", "error": "", "drills": drills}


def text(picture: dict[str, Any]) -> str:
    """Return the head as one line, and another for what went wrong."""
    lines = [_line(picture)]
    if picture["error"]:
        lines.append(f"✗ {printable(picture['error'])}")
    return "\n".join(lines)


def html(picture: dict[str, Any]) -> str:
    """Return the head as HTML."""
    error = f"<div>✗ {safe(picture['error'])}</div>" if picture["error"] else ""
    return f"<div><b>{safe(_line(picture))}</b></div>{error}"


def _line(picture: dict[str, Any]) -> str:
    ended = "" if picture["state"] == "live" else " · ended, this is the last state"
    return f"{printable(picture['line'])}{ended}"
