"""The script of live views: modules of `static/`, joined into the one that is sent.

Each file there is an ES module, and imports and exports stand on one line each, so
that joining them is a matter of lines.
"""

import re
from functools import cache
from pathlib import Path

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
    """Return the style sheet."""
    return (STATIC / "live.css").read_text(encoding="utf-8")


def _join(name: str, parts: dict[str, str]) -> None:
    lines = []
    for line in (STATIC / name).read_text(encoding="utf-8").splitlines():
        imported = _IMPORT.match(line)
        if imported is None:
            lines.append(_EXPORT.sub("", line))
        elif imported[1] not in parts:
            _join(imported[1], parts)
    parts[name] = "\n".join([f"// {name}", *lines])
