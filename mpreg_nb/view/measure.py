"""How wide text is in a drawing, by estimate: fonts differ from page to page."""

import unicodedata

from mpreg_nb.view.text import clipped, printable

BOLD = 1.08
"""How much wider bold text is."""


def width_px(text: str, size: float) -> float:
    """Return about how many pixels `text` takes at a font size; rather too many."""
    return size * sum(map(_share, printable(text)))


def cut(text: str, size: float, room: float) -> str:
    """Return `text`, its middle left out where it is wider than `room` pixels."""
    text = printable(text)
    most = len(text)
    while most > 3 and width_px(clipped(text, most), size) > room + 0.5:
        most -= 1
    return clipped(text, most)


def _share(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in "iljtfrI.,:;'!|()[]{} -·/":
        return 0.4
    if character in "mwMW@%—…" or character.isupper():
        return 0.8 if character.isupper() and character not in "MW" else 0.98
    return 0.62
