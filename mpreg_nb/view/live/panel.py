"""The views of a panel, and the panel as HTML and text."""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from mpreg_nb.names import nearest
from mpreg_nb.view.images import FOLLOWS
from mpreg_nb.view.live import calls, head, latency, members, routes, runs, topology
from mpreg_nb.view.markup import Element
from mpreg_nb.view.palette import LINE
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import safe

if TYPE_CHECKING:
    import pandas as pd


Picture: TypeAlias = dict[str, Any]
"""What one view shows at one moment, as data. Never changed."""

_MODULES: dict[str, ModuleType] = {
    "members": members,
    "topology": topology,
    "routes": routes,
    "latency": latency,
    "calls": calls,
    "runs": runs,
}

VIEWS = tuple(_MODULES)
"""The views that there are, in the order in which a panel shows them."""

HEIGHT_PX = 562
"""Of a panel of several views in a front end, live or ended: nothing below it jumps."""

BOX_CLASS = "mpreg-still"
BOX = (
    f"box-sizing:border-box;height:{HEIGHT_PX}px;overflow:auto;padding:8px 12px;"
    f"border:1px solid {LINE.light};border-radius:8px"
)
STYLE = f"{FOLLOWS}<style>@media print{{.{BOX_CLASS}{{height:auto!important}}}}</style>"
"""What inline styles cannot say: the theme of images, and no box on paper."""

ALSO_CALLED = {
    "stream": "calls",
    "tasks": "calls",
    "task stream": "calls",
    "task_stream": "calls",
    "nodes": "members",
    "workers": "members",
    "graph": "runs",
}
"""Name of a view in other programs -> its name here."""


def chosen_views(names: Iterable[str]) -> tuple[str, ...]:
    """Return `names` in the order of `VIEWS`; all views if there are none.

    Raises:
        ValueError: one of them is not there; names the nearest.
    """
    asked = tuple(names)
    for name in asked:
        if name not in VIEWS:
            meant = ALSO_CALLED.get(str(name)) or nearest(str(name), VIEWS)
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
    if several:
        shown = ", ".join(view for view in VIEWS if view in pictures)
        parts.append(f"<div>{shown}: scroll to see all</div>" if not plain() else "")
    for view in VIEWS:
        if view in pictures:
            title = f'<div style="margin-top:8px"><i>{safe(view)}</i></div>'
            parts += [title] if several else []
            parts.append(_MODULES[view].html(pictures[view]))
    box = f'class="{BOX_CLASS}" tabindex="0" style="{BOX}"'
    boxed = several and not plain()
    return f"{STYLE}<div{' ' + box if boxed else ''}>{''.join(parts)}</div>"


def text(pictures: Mapping[str, Picture]) -> str:
    """Return a panel as text."""
    several = len(pictures) > 2
    parts = [head.text(pictures["head"])]
    for view in VIEWS:
        if view in pictures:
            parts += [f"\n{view}"] if several else []
            parts.append(_MODULES[view].text(pictures[view]))
    return "\n".join(parts)


def drawing(view: str, picture: Picture) -> list[Element]:
    """Return the drawing of a view, or of the "head", for a live panel."""
    module = head if view == "head" else _MODULES[view]
    made: list[Element] = module.drawing(picture) if picture else []
    return made


def states(pictures: Mapping[str, Picture]) -> dict[str, str]:
    """Return texts that a screen reader announces when they change: "n3 is dead"."""
    nodes = pictures.get("members", {}).get("rows") or [
        node
        for node in pictures.get("topology", {}).get("nodes", ())
        if node["kind"] != "client"
    ]
    told = {f"node {row['node']}": f"{row['node']} is {row['state']}" for row in nodes}
    for run in pictures.get("runs", {}).get("runs", ()):
        told[f"run {run['run']}"] = f"{run['workflow']} is {run['status']}"
    return told


def frame(view: str, picture: Picture) -> "pd.DataFrame":
    """Return the picture of `view` as a frame."""
    made: pd.DataFrame = _MODULES[view].frame(picture)
    return made
