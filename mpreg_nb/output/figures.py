"""The backend of matplotlib in functions: figures are shown in the cell of the call.

As in a notebook: `plt.show()` shows the figures that are open and closes them, and
what is still open when the function returns is shown then. Only matplotlib imports
this module.
"""

from typing import Any

from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mpreg_nb.output.capture import PrintingCall
from mpreg_nb.output.display import display, displaying_call


class FigureManager(FigureManagerBase):
    """Holds a figure open for the call that made it."""

    def __init__(self, canvas: Any, num: Any) -> None:
        super().__init__(canvas, num)
        self.call = displaying_call()
        if self.call is not None:
            self.call.has_figures = True

    @classmethod
    def pyplot_show(cls, *_: Any, **__: Any) -> None:
        """Show all open figures of the running call, for `plt.show()`."""
        end_figures(displaying_call(), are_shown=True)

    def show(self) -> None:
        """Show this figure, for its method `show()`."""
        display(self.canvas.figure)
        Gcf.destroy(self)


class FigureCanvas(FigureCanvasAgg):
    """Draws into memory: there is no screen."""

    manager_class = FigureManager


def end_figures(call: PrintingCall | None, *, are_shown: bool) -> None:
    """Close the figures that `call` has open, and show them first."""
    opened = [m for m in Gcf.get_all_fig_managers() if getattr(m, "call", None) is call]
    try:
        if are_shown:
            for manager in opened:
                display(manager.canvas.figure)
    finally:
        for manager in opened:
            Gcf.destroy(manager)
        if call is not None:
            call.has_figures = False
