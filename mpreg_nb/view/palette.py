"""The colours of everything that is shown: one meaning, one colour.

Live panel, cards, drawings, plots and reports take their colours from here, so that
a state looks the same wherever it is shown. Each colour has one value for a light
ground and one for a dark ground; on its ground, text in it has a contrast of at least
4.5 to 1 (WCAG 2.2, success criterion 1.4.3). A colour only repeats what a mark or a
word says. The hues follow Okabe and Ito, "Color Universal Design", 2008.
"""

import re
from zlib import crc32

import msgspec


class Colour(msgspec.Struct, frozen=True):
    """One colour: its value on a light ground, and its value on a dark ground."""

    light: str
    dark: str

    def on(self, *, dark: bool) -> str:
        """Return the value for a light ground or for a dark ground."""
        return self.dark if dark else self.light

    @property
    def middle(self) -> str:
        """A mix of both for a picture whose ground is not known: 3 to 1 on each.

        As near as the two allow to what has 4.4 to 1 on white and on #111111.
        """
        light, dark = _linear(self.light), _linear(self.dark)
        lightest, darkest = _luminance(light), _luminance(dark)
        share = 0.0
        if lightest != darkest:
            share = (_MIDDLE - lightest) / (darkest - lightest)
        share = min(1.0, max(0.0, share))
        mixed = (
            one + share * (other - one) for one, other in zip(light, dark, strict=True)
        )
        return "#" + "".join(f"{_byte(part):02x}" for part in mixed)


_MIDDLE = 0.192
"""Luminance with the same contrast on white and on #111111."""


def _linear(colour: str) -> tuple[float, ...]:
    """Return red, green and blue as shares of light (sRGB, IEC 61966-2-1)."""
    return tuple(
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (byte / 255 for byte in bytes.fromhex(colour.removeprefix("#")))
    )


def _byte(light: float) -> int:
    share = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
    return round(255 * share)


def _luminance(linear: tuple[float, ...]) -> float:
    """As WCAG 2.2 defines it."""
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


class Tone(msgspec.Struct, frozen=True, kw_only=True):
    """The colours of one meaning.

    ink: text, lines and filled bars; what is written in a filled bar is `PAGE`.
    ground: the inside of a box; `INK`, `SOFT` and the tone's own ink can be read on it.
    mark: for a mark where the ground is not known, 3.5 to 1 on white and on black.
    """

    ink: Colour
    ground: Colour
    mark: str


PAGE = Colour("#ffffff", "#111111")
INK = Colour("#1f2328", "#e6edf3")
SOFT = Colour("#57606a", "#a3adb8")
"""What is written next to the data: axes, captions, functions of steps."""

LINE = Colour("#7d8590", "#8b949e")
"""Arrows and borders."""

GRID = Colour("#d0d7de", "#30363d")
CARD = Colour("#f3f5f7", "#20262d")
"""The inside of a box that has no status."""

GOOD = Tone(
    ink=Colour("#00704f", "#4cc9a0"),
    ground=Colour("#e2f4ee", "#0f2a22"),
    mark="#00845f",
)
BUSY = Tone(
    ink=Colour("#0067ab", "#6cb8f2"),
    ground=Colour("#e3f1fb", "#0d2539"),
    mark="#1478bd",
)
WARN = Tone(
    ink=Colour("#7a5c00", "#e8b339"),
    ground=Colour("#fbf3da", "#2f2406"),
    mark="#9a7000",
)
BAD = Tone(
    ink=Colour("#b23c00", "#ff9666"),
    ground=Colour("#fdebe0", "#38190c"),
    mark="#cc5800",
)
ODD = Tone(
    ink=Colour("#8f3a73", "#e79ac8"),
    ground=Colour("#fbeaf4", "#341827"),
    mark="#b5598f",
)
IDLE = Tone(ink=SOFT, ground=CARD, mark="#737d87")

TONES = {
    "good": GOOD,
    "busy": BUSY,
    "warn": WARN,
    "bad": BAD,
    "odd": ODD,
    "idle": IDLE,
}

NODES = {"alive": GOOD, "suspect": WARN, "dead": BAD, "left": IDLE}
"""State of a node -> its tone."""

STATUSES = {
    "waiting": IDLE,
    "running": BUSY,
    "done": GOOD,
    "failed": BAD,
    "lost": BAD,
    "skipped": IDLE,
    "cancelled": WARN,
    "fallback": ODD,
    "undone": IDLE,
}
"""Status of a step, a run or a call -> its tone."""


class TimePart(msgspec.Struct, frozen=True):
    """A part of the time of a call: its colour, and a hatch of matplotlib."""

    fill: Colour
    hatch: str


PARTS = {
    "waited": TimePart(Colour("#8a939c", "#7d8792"), "xxx"),
    "queued": TimePart(Colour("#c78200", "#e8b339"), "\\\\\\"),
    "run": TimePart(BUSY.ink, ""),
    "network": TimePart(Colour("#2f9bd6", "#8fd3f5"), "///"),
    "serialize": TimePart(Colour("#c0609a", "#e79ac8"), "..."),
}
"""Part of the time of a call -> how it is filled, in the order of events."""

PERCENTILES = {
    "p50": Colour("#4a3fb5", "#8d84f2"),
    "p95": Colour("#5b4bc4", "#a99bf5"),
    "p99": Colour("#6f62d1", "#c4bbfa"),
}
"""Percentiles over time; dashes and labels tell them apart."""

HEAT = Colour("#1f83c9", "#1f83c9")
"""The strongest colour of a scale, mixed with the page by up to 70 percent."""

HUES = (
    Colour("#0067ab", "#6cb8f2"),
    Colour("#a85a00", "#f0a95a"),
    Colour("#007a5a", "#4cc9a0"),
    Colour("#b0357a", "#f291c0"),
    Colour("#5b4bc4", "#a99bf5"),
    Colour("#6a5d00", "#cdbb45"),
    Colour("#00737f", "#4fc3cf"),
    Colour("#8a4b2a", "#d3a184"),
)
"""For functions, and for other things without an order."""


class Hues:
    """Gives each name one of `HUES`, the same at each request.

    A name's hue follows from its letters, so that it is mostly the same in every
    kernel. While hues are free, no two names share one.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # name -> index in HUES

    def place(self, name: str) -> int:
        """Return the index in `HUES` of the hue of `name`."""
        wanted = crc32(name.encode()) % len(HUES)
        if name in self._places:
            return self._places[name]
        taken = set(self._places.values())
        free = [at for at in range(len(HUES)) if at not in taken]
        if not free:  # nothing to remember: it shares the hue that it wants
            return wanted
        chosen = min(free, key=lambda at: (at - wanted) % len(HUES))
        return self._places.setdefault(name, chosen)

    def of(self, name: str) -> Colour:
        """Return the colour of `name`."""
        return HUES[self.place(name)]


FUNCTIONS = Hues()
"""The hues of functions in this process: the same in the panel and in plots."""


# ------------------------------------------------------------------ drawn as SVG

_ALL = (
    *(PAGE, INK, SOFT, LINE, GRID, CARD),
    *(colour for tone in TONES.values() for colour in (tone.ink, tone.ground)),
    *(part.fill for part in PARTS.values()),
    *PERCENTILES.values(),
    *HUES,
)
_DARK = {colour.light: colour.dark for colour in _ALL}

_PAINTED = re.compile(r'\b(fill|stroke)="(#[0-9a-f]{6})"')


def dark_style(drawn: str) -> str:
    """Return a style element that gives SVG its dark colours on a dark page.

    drawn: SVG elements whose `fill` and `stroke` are light values of this palette.
    Where a program knows no style sheets, they stay as they are. On paper too.
    """
    rules = "".join(
        f'[{name}="{light}"]{{{name}:{_DARK[light]}}}'
        for name, light in sorted(set(_PAINTED.findall(drawn)))
        if light in _DARK
    )
    if not rules:
        return ""
    return f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"
