"""What a display is on its way from a worker to a cell: one line of JSON.

Its first key tells what it does, so that who only counts need not read the rest.
"""

from collections.abc import Callable, Mapping
from typing import Any

CLEARS = '{"clear": '
UPDATES = '{"update": true'

_pass_on: list[Callable[[str, str], bool]] = []


def passing_on() -> Callable[[str, str], bool] | None:
    """Return what shows a display, after a line of text, where this process shows.

    None in all processes but workers.
    """
    return _pass_on[-1] if _pass_on else None


def set_passing_on(pass_on: Callable[[str, str], bool]) -> None:
    """Say how displays of calls that this process makes are shown."""
    _pass_on[:] = [pass_on]


def packed(
    data: Mapping[str, Any],
    metadata: Mapping[str, Any],
    transient: Mapping[str, Any],
    *,
    update: bool,
) -> str:
    """Return what shows `data`: MIME type -> form."""
    import json  # as a worker needs it only here

    shown = {
        "update": update,
        "data": data,
        "metadata": metadata,
        "transient": transient,
    }
    return json.dumps(shown, default=repr)


def packed_clear(*, wait: bool) -> str:
    """Return what clears the cell; with `wait`, when the next thing is shown."""
    return f"{CLEARS}{'true' if wait else 'false'}}}"


def text_of(shown: Mapping[str, Any]) -> str:
    """Return a display as lines of text; "" where it only clears."""
    data = shown.get("data")
    if data is None:
        return ""
    text = str(data.get("text/plain") or f"<{', '.join(data)}>")
    return text if text.endswith("\n") else f"{text}\n"
