"""What all figures of matplotlib share. None touches pyplot or its settings.

So a cell shows a figure when it ends with one, and never twice.
"""

import warnings
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.text import clipped, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008, darkest and lightest left out.
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
    "#7f7f7f",
    "#b2a100",
)
SOFT = "#57606a"
"""Ink of what is said beside the data."""

GRID = "#d0d7de"


def new_figure(**options: Any) -> "Figure":
    """Return a figure that shows itself, with and without pyplot."""
    made: Figure = _figure_class()(**options)
    return made


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
    axes.set_title(title, loc="left", pad=22 if more else 8, fontsize=12)
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
                self.savefig(file, format="png", facecolor="white")
            return file.getvalue()

    Shown.__name__ = Shown.__qualname__ = "Figure"  # which is what its repr says
    return Shown
