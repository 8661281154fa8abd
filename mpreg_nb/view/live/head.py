"""The head of a panel: the state of the cluster in one line, and the rate of calls."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.view.diagram_text import printable
from mpreg_nb.view.html import outline
from mpreg_nb.view.live.charts import Tip, per_second, spark, spark_image, tip
from mpreg_nb.view.markup import Element, element
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import safe

if TYPE_CHECKING:
    from mpreg_nb.client.statistics import CallRow


KEPT_S = 60
NOW_S = 5
"""The current rate is the mean of so many complete seconds."""


class CallRate:
    """Calls per second of the wall clock, computed from a count that only grows."""

    def __init__(self) -> None:
        self._calls: dict[int, float] = {}  # second since 1970 -> calls
        self._count = 0
        self._at = math.nan

    def take(
        self, rows: "Callable[[], Iterable[CallRow]]", count: int, now: float
    ) -> None:
        """Record how many calls have ended until `now`.

        rows: gives the last calls; asked the first time only.
        """
        if math.isnan(self._at):
            for row in rows():
                self._add(row.started_at + row.total_us / 1e6, 1.0)
        elif count > self._count:
            self._spread(count - self._count, max(self._at, now - KEPT_S), now)
        self._count, self._at = count, now
        oldest = math.floor(now) - KEPT_S
        for second in [second for second in self._calls if second < oldest]:
            del self._calls[second]

    def rates(self) -> list[float]:
        """Return calls per second for each complete second, the newest last."""
        if math.isnan(self._at):
            return []
        newest = math.floor(self._at) - 1
        return [
            round(self._calls.get(newest - back, 0.0), 1)
            for back in range(KEPT_S - 1, -1, -1)
        ]

    @property
    def now(self) -> float:
        """Calls a second at this moment."""
        return round(sum(self.rates()[-NOW_S:]) / NOW_S, 1)

    @property
    def origin(self) -> int:
        """A value that changes when the rates change."""
        return math.floor(self._at) if self._calls else 0

    def _spread(self, calls: int, since: float, now: float) -> None:
        """Spread calls evenly over the time since the last record."""
        length_s = now - since
        if length_s <= 0:
            self._add(now, calls)
            return
        for second in range(math.floor(since), math.floor(now) + 1):
            part_s = min(second + 1, now) - max(second, since)
            self._add(second, calls * part_s / length_s)

    def _add(self, at: float, calls: float) -> None:
        second = math.floor(at)
        self._calls[second] = self._calls.get(second, 0.0) + calls


def picture(
    snapshot: Snapshot, calls: int, pace: CallRate, *, drills: bool
) -> dict[str, Any]:
    """Return the head of a live panel without note or error.

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


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return the calls a second of this notebook, as a number and its course."""
    if "calls_per_s" not in picture:
        return []
    rate = f"{per_second(picture['calls_per_s'])} calls/s"
    return [
        element(
            "span",
            spark(picture["course"], least=1.0, zero=True),
            element("span", rate, class_="mpreg-number"),
            class_="mpreg-rate",
            tabindex="0",
            aria_label=f"{rate} from this notebook",
            tip=_told(picture["course"], rate),
        )
    ]


def _told(course: list[float], rate: str) -> Tip:
    mean = sum(course) / (len(course) or 1)
    return tip(
        "Calls of this notebook",
        ("last 5 s", rate),
        ("most in a second", f"{per_second(max(course, default=0.0))} calls/s"),
        ("last minute", f"{per_second(mean)} calls/s"),
        note="Calls that ended, steps of runs included.",
    )


def text(picture: dict[str, Any]) -> str:
    """Return the head as one line, and a second line for an error."""
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
    """Return the rate of calls; "" if no call ended in the last minute."""
    if plain() or not any(picture.get("course", ())):
        return ""
    rate = picture["calls_per_s"]
    return f"{rate:,.0f} calls/s" if rate >= 10 else f"{rate:.1f} calls/s"


def _course(picture: dict[str, Any]) -> str:
    if not _rate(picture):
        return ""
    title = "calls a second in the last minute"
    return " " + spark_image(picture["course"], title, least=1.0, zero=True)
