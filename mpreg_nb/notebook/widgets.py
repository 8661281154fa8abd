"""The widget of a live view, with its script and style sheet.

The script is joined from the ES modules in `static`, whose imports and exports stand on
one line each.
"""

import re
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from functools import cache
from pathlib import Path
from typing import TypeVar

import anywidget
import traitlets

from mpreg_nb.view import palette
from mpreg_nb.view.images import DARK_PAGES, LIGHT_PAGES
from mpreg_nb.view.live.panel import Picture
from mpreg_nb.view.palette import Colour

STATIC = Path(__file__).parent / "static"

ENTRY = "live.js"
"""The module that exports `render`."""

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
    """Return rules that give each colour with a meaning its value on this page."""
    named: dict[str, Colour] = {"strongest": palette.HEAT}
    for name, tone in palette.TONES.items():
        named |= {name: tone.ink, f"{name}-ground": tone.ground}
    named |= {f"part-{name}": part.fill for name, part in palette.PARTS.items()}
    named |= palette.PERCENTILES
    named |= {f"hue-{place}": hue for place, hue in enumerate(palette.HUES)}

    def values(*, dark: bool) -> str:
        colours = (f"--mpreg-{name}:{c.on(dark=dark)}" for name, c in named.items())
        return f"color-scheme:{'dark' if dark else 'light'};{';'.join(colours)}"

    panel = ".mpreg-live"
    known_dark = ",".join(f"{page} {panel}" for page in DARK_PAGES)
    unknown = f"body:not({','.join((*LIGHT_PAGES, *DARK_PAGES))}) {panel}"
    return (
        f"{panel}{{{values(dark=False)}}}\n"
        f"{known_dark}{{{values(dark=True)}}}\n"
        f"@media (prefers-color-scheme:dark){{{unknown}{{{values(dark=True)}}}}}"
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


class LiveWidget(anywidget.AnyWidget):
    """A panel in a front end. Each trait is a picture, replaced whole.

    The script keeps no state of the cluster: it draws the traits, and sends what
    its buttons ask for.
    """

    _esm = script_source()
    _css = style_source()
    id = traitlets.Unicode().tag(sync=True)
    views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    head = traitlets.Dict().tag(sync=True)
    members = traitlets.Dict().tag(sync=True)
    topology = traitlets.Dict().tag(sync=True)
    routes = traitlets.Dict().tag(sync=True)
    latency = traitlets.Dict().tag(sync=True)
    calls = traitlets.Dict().tag(sync=True)
    runs = traitlets.Dict().tag(sync=True)

    def draw(self, pictures: Mapping[str, Picture]) -> None:
        """Send the pictures that changed. On any thread."""
        changed = {
            name: picture
            for name, picture in pictures.items()
            if getattr(self, name) is not picture
        }
        if changed:
            of_no_cell(lambda: self._replace(changed))

    def close(self) -> None:
        """Take it away from the front end, with the model of its layout."""
        if self.comm is not None:
            self.layout.close()
        super().close()

    def _replace(self, pictures: Mapping[str, Picture]) -> None:
        with self.hold_sync():
            for name, picture in pictures.items():
                self.set_trait(name, picture)


def of_no_cell(act: Callable[[], T]) -> T:
    """Do what sends messages of a widget, so that they belong to no cell.

    A kernel hands what a front end answers to the loop of the cell that the widget
    spoke for last. A panel speaks from a thread: its buttons shall work while a
    cell runs, on the loop that the front end asks for.
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
