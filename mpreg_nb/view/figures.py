"""What all figures of matplotlib share. None touches pyplot or its settings.

So a cell shows a figure when it ends with one, and never twice. Their ground is
transparent, and their colours show on light pages and on dark ones.
"""

import warnings
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from mpreg_nb.view import palette
from mpreg_nb.view.text import clipped, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT = palette.INK.middle, palette.SOFT.middle
"""Ink of titles and names, and of what is said beside the data."""

GRID = (palette.LINE.middle, 0.3)
"""Ink of lines that help to read: colour and opacity."""

IN_BAR = "#ffffff"
"""Ink of what is written in a filled bar."""


def new_figure(**options: Any) -> "Figure":
    """Return a figure that shows itself, with and without pyplot."""
    made: Figure = _figure_class()(facecolor="none", **options)
    return made


def new_axes(figure: "Figure", columns: int = 1, **options: Any) -> "list[Axes]":
    """Return so many axes side by side, in colours that show on every page."""
    grid = figure.subplots(1, columns, squeeze=False, **options)
    made: list[Axes] = list(grid[0])
    for axes in made:
        dress(axes)
    return made


def dress(axes: "Axes") -> None:
    """Give `axes` colours that show on every page, and only the lines it needs."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette.LINE.middle)
    axes.tick_params(which="both", color=palette.LINE.middle, labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(SOFT)


def say_empty(axes: "Axes", text: str) -> None:
    """Say in the middle of `axes` why nothing is drawn."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        color=SOFT,
        transform=axes.transAxes,
    )


def short(name: str, most: int = 20) -> str:
    """Return a name that users gave as text of a figure, cut where it is long."""
    # matplotlib would read what is between two dollar signs as a formula.
    return clipped(printable(name), most).replace("$", r"\$")


def subtitle(axes: "Axes", title: str, more: str) -> None:
    """Set the title of `axes`, and below it in smaller letters what else to know."""
    pad = 22 if more else 8
    axes.set_title(title, loc="left", pad=pad, fontsize=12, color=INK)
    if more:
        axes.annotate(
            more,
            (0, 1),
            xytext=(0, 7),
            xycoords="axes fraction",
            textcoords="offset points",
            color=SOFT,
            fontsize=9,
        )


@cache
def _figure_class() -> "type[Figure]":
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            file = BytesIO()
            with warnings.catch_warnings():
                # A box stands for a letter that the font lacks; a warning for each
                # letter of each name would bury the figure.
                warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
                self.savefig(file, format="png")
            return file.getvalue()

    Shown.__name__ = Shown.__qualname__ = "Figure"  # which is what its repr says
    return Shown
