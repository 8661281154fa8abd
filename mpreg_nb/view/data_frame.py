"""A pandas frame with readable display, in a notebook and on a terminal.

To compute with it is a `pandas.DataFrame` like any other, and so are its parts. A cell
shows text on the left and numbers on the right with three significant digits, local
times to the second, states with their marks, and a dash for what is not known.
Options of pandas count: `display.max_rows`, `min_rows`, `max_colwidth`,
`float_format` and `notebook_repr_html`.
"""

from collections.abc import Iterator
from functools import cache
from math import floor, log10
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.diagram_text import MARKS, STATE_MARKS
from mpreg_nb.view.palette import NODES, STATUSES, TONES
from mpreg_nb.view.tables import Cell, Long, Marked, Table
from mpreg_nb.view.terminal import shown

if TYPE_CHECKING:
    import pandas as pd


UNKNOWN = "–"  # noqa: RUF001 - the sign for what is not known

MOST_COLUMNS = 40
"""With more, as after a transposition, pandas shows the frame in its own way."""

NAMES = ("pid", "port")
"""Whole numbers that name something: without a comma between thousands."""

EVENTS = {
    "joined": ("●", "good"),
    "worker died": ("✗", "bad"),
    "breaker open": ("◐", "warn"),
    "breaker closed": ("●", "good"),
}
"""Event that is no state of a node -> its mark, and the name of its tone."""

CHIPS: dict[str, dict[str, tuple[str, str]]] = {
    "state": {state: (STATE_MARKS[state], tone.mark) for state, tone in NODES.items()},
    # A call that is lost has no mark of its own.
    "status": {
        status: (MARKS.get(status, MARKS["failed"]), tone.mark)
        for status, tone in STATUSES.items()
    },
}
"""Column -> word -> its mark and its ink."""
CHIPS["event"] = CHIPS["state"] | {
    event: (mark, TONES[tone].mark) for event, (mark, tone) in EVENTS.items()
}


@cache
def frame_class() -> "type[pd.DataFrame]":
    """Return the class of all frames; pandas is imported when the first is made."""
    import pandas as pd

    class Frame(pd.DataFrame):
        """A frame with our display. It is pickled as a plain DataFrame."""

        @property
        def _constructor(self) -> Any:
            return Frame

        def __repr__(self) -> str:
            table = _table(self)
            if table is None:
                return repr(pd.DataFrame(self))
            return shown(table)

        def _repr_html_(self) -> str | None:
            table = _table(self)
            if table is None or not pd.get_option("display.notebook_repr_html"):
                html: str | None = super()._repr_html_()  # type: ignore[misc]
                return html
            return f'<div style="overflow-x:auto">{table.html}</div>'

        def __reduce__(self) -> Any:
            return pd.DataFrame(self).__reduce__()

    return Frame


def three_digits(value: float) -> str:
    """Return a number with three significant digits, whole parts in full.

    >>> three_digits(12_345.6), three_digits(99.96), three_digits(1.0)
    ('12,346', '100', '1.00')
    >>> three_digits(0.01234), three_digits(0.0), three_digits(1.2345e-7)
    ('0.0123', '0', '1.23e-07')
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4:
        return f"{value:.2e}"
    # Rounded first: 9.996 has one digit less behind the point than 9.994.
    digits = 2 - floor(log10(float(f"{size:.2e}"))) if size < float("inf") else 0
    return f"{value:,.{max(0, digits)}f}"


def _table(frame: "pd.DataFrame") -> Table | None:
    """Return the table that shows `frame`; None to leave the display to pandas."""
    import pandas as pd

    if frame.columns.nlevels > 1 or len(frame.columns) > MOST_COLUMNS:
        return None
    rows, note = _rows_shown(len(frame))
    part = frame if rows is None else pd.concat([frame.iloc[:rows], frame.iloc[-rows:]])
    titles = [str(name) for name in frame.columns]
    columns = [
        _column(title, part.iloc[:, place]) for place, title in enumerate(titles)
    ]
    right = [_is_number(frame.iloc[:, place]) for place in range(len(titles))]
    for level in reversed(range(frame.index.nlevels)):
        if _is_plain(frame.index):
            break
        labels = part.index.get_level_values(level)
        title = "" if labels.name is None else str(labels.name)
        titles.insert(0, title)
        columns.insert(0, _column(title or "index", pd.Series(labels)))
        right.insert(0, _is_number(pd.Series(labels)))
    lines: list[list[Cell]] = [list(line) for line in zip(*columns, strict=True)]
    if rows is not None:
        lines.insert(rows, ["…"] * len(titles))
    return Table(
        head=titles,
        rows=lines,
        numbers=[
            title for title, is_right in zip(titles, right, strict=True) if is_right
        ],
        more=note,
        names_cells=True,
    )


def _rows_shown(number: int) -> tuple[int | None, str]:
    """Return how many rows to show at each end (None: all), and the note below."""
    import pandas as pd

    most = pd.get_option("display.max_rows") or number
    if number == 0:
        return None, "no rows"
    if number <= most:
        return None, ""
    least = pd.get_option("display.min_rows") or most
    ends = max(1, min(least, most) // 2)
    return ends, f"{number:,} rows, {2 * ends} of them shown"


def _is_plain(index: "pd.Index[Any]") -> bool:
    """Return whether the index is only the row number."""
    import pandas as pd

    return (
        isinstance(index, pd.RangeIndex)
        and index.name is None
        and (index.start, index.step) == (0, 1)
    )


def _is_number(column: "pd.Series[Any]") -> bool:
    import pandas as pd

    kind = column.dtype
    is_bool = pd.api.types.is_bool_dtype(kind)
    return pd.api.types.is_numeric_dtype(kind) and not is_bool


def _column(name: str, values: "pd.Series[Any]") -> Iterator[Cell]:
    import pandas as pd

    most = pd.get_option("display.max_colwidth")
    chips = CHIPS.get(name, {})
    # Labels of rows are names too.
    is_name = name in NAMES or name == "index"
    for value in values.tolist():
        text = _text(value, is_name=is_name)
        if text in chips:
            mark, ink = chips[text]
            yield Marked(mark, text, ink, is_chip=True)
        elif most is not None and len(text) > most:
            yield Long(text, most)
        else:
            yield text


def _text(value: Any, *, is_name: bool) -> str:
    import pandas as pd

    if isinstance(value, str):
        return value or UNKNOWN
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return UNKNOWN
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value) if is_name else f"{value:,}"
    if isinstance(value, float):
        as_wanted = pd.get_option("display.float_format")
        return str(as_wanted(value)) if as_wanted else three_digits(value)
    if isinstance(value, pd.Timestamp):
        local = value if value.tzinfo is None else value.to_pydatetime().astimezone()
        return f"{local:%Y-%m-%d %H:%M:%S}"
    return str(value)
