"""Script and style sheet of live views, as they are sent.

The script is made of the modules of `static/`.
Each file there is an ES module, and imports and exports stand on one line each, so
that joining them is a matter of lines.
"""

import re
from functools import cache
from pathlib import Path

from mpreg_nb.view import palette
from mpreg_nb.view.images import DARK_PAGES, LIGHT_PAGES
from mpreg_nb.view.palette import Colour

STATIC = Path(__file__).parent / "static"

ENTRY = "live.js"
"""The module that exports `render`."""

_IMPORT = re.compile(r'^import\s.*from\s+"\./([\w.-]+)";\s*$')
_EXPORT = re.compile(r"^export\s+(?!default)")


@cache
def script() -> str:
    """Return all modules as one, each after those that it imports."""
    parts: dict[str, str] = {}
    _join(ENTRY, parts)
    return "\n".join([*parts.values(), "export default { render };", ""])


@cache
def style() -> str:
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
