"""A panel of several views: which there are, and what all of them show together."""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from mpreg_nb.names import nearest
from mpreg_nb.view.images import FOLLOWS
from mpreg_nb.view.live import head, latency, members, routes, runs, topology
from mpreg_nb.view.tables import safe

if TYPE_CHECKING:
    import pandas as pd

Picture: TypeAlias = dict[str, Any]
"""What one view shows at one moment; all of it can be JSON. Never changed."""

_MODULES: dict[str, ModuleType] = {
    "members": members,
    "topology": topology,
    "routes": routes,
    "latency": latency,
    "runs": runs,
}

VIEWS = tuple(_MODULES)
"""The views that there are, in the order in which a panel shows them."""


def chosen_views(names: Iterable[str]) -> tuple[str, ...]:
    """Return `names` in the order of `VIEWS`; all views if there are none.

    Raises:
        ValueError: one of them is not there; names the nearest.
    """
    asked = tuple(names)
    for name in asked:
        if name not in VIEWS:
            meant = nearest(str(name), VIEWS)
            hint = f"Did you mean {meant!r}? " if meant else ""
            raise ValueError(
                f"there is no view {name!r}. {hint}The views are: {', '.join(VIEWS)}"
            )
    return tuple(view for view in VIEWS if view in asked) or VIEWS


def html(pictures: Mapping[str, Picture]) -> str:
    """Return a panel as HTML without script.

    pictures: view -> its picture, and that of the head under "head".
    """
    several = len(pictures) > 2
    parts = [head.html(pictures["head"])]
    for view in VIEWS:
        if view in pictures:
            title = f'<div style="margin-top:8px"><i>{safe(view)}</i></div>'
            parts += [title] if several else []
            parts.append(_MODULES[view].html(pictures[view]))
    return f"{FOLLOWS}<div>{''.join(parts)}</div>"


def text(pictures: Mapping[str, Picture]) -> str:
    """Return a panel as text."""
    several = len(pictures) > 2
    parts = [head.text(pictures["head"])]
    for view in VIEWS:
        if view in pictures:
            parts += [f"\n{view}"] if several else []
            parts.append(_MODULES[view].text(pictures[view]))
    return "\n".join(parts)


def frame(view: str, picture: Picture) -> "pd.DataFrame":
    """Return the picture of `view` as a frame."""
    made: pd.DataFrame = _MODULES[view].frame(picture)
    return made
