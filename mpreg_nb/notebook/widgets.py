"""The widget of a live view, with its script and style sheet.

The script is joined from the ES modules in `static`, whose imports and exports stand on
one line each.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import anywidget
import msgspec
import traitlets

from mpreg_nb.view import palette
from mpreg_nb.view.images import DARK_PAGES, LIGHT_PAGES
from mpreg_nb.view.live import panel
from mpreg_nb.view.live.panel import Picture
from mpreg_nb.view.markup import Element, difference
from mpreg_nb.view.palette import Colour

STATIC = Path(__file__).parent / "static"

ENTRY = "live.js"
"""The module that exports `render`."""

OF_THE_PAGE = {
    "page": palette.PAGE,
    "ink": palette.INK,
    "soft": palette.SOFT,
    "rule-strong": palette.LINE,
    "rule": palette.GRID,
    "raised": palette.CARD,
}
"""Colours that the style sheet takes from the front end, by their names there."""

_IMPORT = re.compile(r'^import\s.*from\s+"\./([\w.-]+)";\s*$')
_EXPORT = re.compile(r"^export\s+(?!default)")


@cache
def script_source() -> str:
    """Return all modules as one, each after those that it imports."""
    parts: dict[str, str] = {}
    _join(ENTRY, parts)
    return "\n".join([*parts.values(), "export default { render };", ""])


@cache
def style_source() -> str:
    """Return the style sheet, after the colours that it names."""
    rules = (STATIC / "live.css").read_text(encoding="utf-8")
    return f"{_colours()}\n{rules}"


def _colours() -> str:
    """Return rules that give each colour of the palette its value on this page."""
    named: dict[str, Colour] = {"strongest": palette.HEAT}
    for name, tone in palette.TONES.items():
        named |= {name: tone.ink, f"{name}-ground": tone.ground}
    named |= {f"part-{name}": part.fill for name, part in palette.PARTS.items()}
    named |= palette.PERCENTILES
    named |= {f"hue-{place}": hue for place, hue in enumerate(palette.HUES)}

    def values(*, dark: bool) -> str:
        colours = (f"--mpreg-{name}:{c.on(dark=dark)}" for name, c in named.items())
        return f"color-scheme:{'dark' if dark else 'light'};{';'.join(colours)}"

    live = ".mpreg-live"
    known_dark = ",".join(f"{page} {live}" for page in DARK_PAGES)
    unknown = f"body:not({','.join((*LIGHT_PAGES, *DARK_PAGES))}) {live}"
    # Drawings have the light value of each colour, as in an image without style sheet.
    shown = {colour.light: name for name, colour in named.items()}
    shown |= {colour.light: name for name, colour in OF_THE_PAGE.items()}
    painted = "\n".join(
        f'{live} [{way}="{light}"]{{{way}:var(--mpreg-{name})}}'
        for light, name in shown.items()
        for way in ("fill", "stroke")
    )
    return (
        f"{live}{{{values(dark=False)}}}\n"
        f"{known_dark}{{{values(dark=True)}}}\n"
        f"@media (prefers-color-scheme:dark){{{unknown}{{{values(dark=True)}}}}}\n"
        f"{painted}"
    )


def _join(name: str, parts: dict[str, str]) -> None:
    lines = []
    for line in (STATIC / name).read_text(encoding="utf-8").splitlines():
        imported = _IMPORT.match(line)
        if imported is None:
            lines.append(_EXPORT.sub("", line))
        elif imported[1] not in parts:
            _join(imported[1], parts)
    parts[name] = "\n".join([f"// {name}", *lines])


T = TypeVar("T")


FULL_EVERY_S = 10.0
"""A drawing is sent whole at least so often, for a front end that missed a change."""


def traits_of(pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """Return the values of the traits that show `pictures`."""
    traits: dict[str, Any] = {
        name: panel.drawing(name, picture)
        for name, picture in pictures.items()
        if name != "head"
    }
    if "head" in pictures:
        head = pictures["head"]
        said = {name: head.get(name, "") for name in ("line", "state", "note", "error")}
        traits["head"] = {**said, "rate": panel.drawing("head", head)}
    return traits


class LiveWidget(anywidget.AnyWidget):
    """A panel in a front end. Each trait is the drawing of a view, replaced whole.

    A front end that is ready gets the changes to a drawing only. Its script keeps no
    state of the cluster: it shows the drawings, and sends what its buttons ask for.
    """

    _esm = script_source()
    _css = style_source()
    id = traitlets.Unicode().tag(sync=True)
    views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    head = traitlets.Dict().tag(sync=True)
    states = traitlets.Dict().tag(sync=True)
    members = traitlets.List(traitlets.Any()).tag(sync=True)
    topology = traitlets.List(traitlets.Any()).tag(sync=True)
    routes = traitlets.List(traitlets.Any()).tag(sync=True)
    latency = traitlets.List(traitlets.Any()).tag(sync=True)
    calls = traitlets.List(traitlets.Any()).tag(sync=True)
    runs = traitlets.List(traitlets.Any()).tag(sync=True)

    def __init__(
        self,
        pictures: Mapping[str, Picture],
        *,
        clock: Callable[[], float] = time.monotonic,
        **traits: Any,
    ) -> None:
        self._clock = clock
        self._pictures = dict(pictures)
        self._sent: dict[str, list[Element]] = {}
        self._numbers: dict[str, int] = {}  # view -> number of its last change
        self._whole_until: dict[str, float] = {}
        self._ready = False
        drawn = traits_of(pictures)
        super().__init__(states=panel.states(pictures), **drawn, **traits)
        self.on_msg(self._told)

    def draw(self, pictures: Mapping[str, Picture]) -> None:
        """Send what changed of the pictures. On any thread."""
        changed = {
            name: picture
            for name, picture in pictures.items()
            if self._pictures.get(name) is not picture
        }
        if not changed:
            return
        self._pictures |= changed
        traits = traits_of(changed) | {"states": panel.states(self._pictures)}
        of_no_cell(lambda: self._replace(traits))

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Return the values of traits for a front end: all, or those that changed."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        for view in panel.VIEWS:
            if view in state:
                drawn = shown = state[view]
                if key is not None and self._ready:
                    shown = self._change_of(view, drawn)
                self._sent[view] = drawn
                # As bytes of their own: widgets would look for bytes in each element.
                state[view] = msgspec.json.encode(shown)
        return state

    def close(self) -> None:
        """Remove the widget from the front end, with the model of its layout."""
        if self.comm is not None:
            self.layout.close()
        super().close()

    def _change_of(self, view: str, drawn: list[Element]) -> Any:
        """Return the changes of a drawing, or now and then the whole drawing."""
        now = self._clock()
        if view not in self._sent or now >= self._whole_until.get(view, 0.0):
            self._whole_until[view] = now + FULL_EVERY_S
            return drawn
        self._numbers[view] = self._numbers.get(view, 0) + 1
        changes = difference(self._sent[view], drawn)
        return {"number": self._numbers[view], "changes": changes}

    def _told(self, widget: Any, content: Any, buffers: Any) -> None:
        if content == {"do": "ready"}:
            self._ready = True
            self._whole_until.clear()

    def _replace(self, traits: Mapping[str, Any]) -> None:
        with self.hold_sync():
            for name, value in traits.items():
                self.set_trait(name, value)


def of_no_cell(act: Callable[[], T]) -> T:
    """Call `act` such that its widget messages belong to no cell.

    A kernel handles the answer of a front end on the loop of the cell that the widget
    last sent a message for. A panel sends from a thread: without a cell, its buttons
    work while a cell runs.
    """
    return Context().run(_without_parent, act)


def _without_parent(act: Callable[[], T]) -> T:
    from ipykernel.kernelbase import Kernel

    if Kernel.initialized():
        # There is no public way to set it for this context alone.
        parent = getattr(Kernel.instance(), "_shell_parent", None)
        if isinstance(parent, ContextVar):
            parent.set({})
    return act()
