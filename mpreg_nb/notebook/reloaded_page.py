"""The end of a run, for a page that was reloaded while its cell ran.

A front end takes in only the outputs of requests that it has sent itself. So such a
page keeps the picture that was saved last, and would show for ever that the run goes
on. Widgets are looked up in the kernel when a page is loaded: one that shows nothing
until the run has ended stands below the picture.
"""

from collections import deque
from html import escape
from typing import Any

from mpreg_nb.notebook.replaceable_output import Place

MOST_ENDS = 20
"""So many runs are kept for pages that are loaded again; the oldest are let go."""

_HIDDEN = "none"


class LateEnd:
    """Shows the end of a run when the front end no longer accepts outputs."""

    def __init__(self, publisher: Any, picture: str) -> None:
        """picture: the id of the picture that the end takes the place of."""
        from ipywidgets import HTML, Layout

        from mpreg_nb.notebook.widgets import of_no_cell

        self._picture = picture
        self._place = Place(publisher)
        self._widget = of_no_cell(lambda: HTML(layout=Layout(display=_HIDDEN)))
        data = self._widget._repr_mimebundle_()
        self._place.put({**data, "text/plain": ""})

    def show(self, html: str) -> None:
        """Show `html` in place of the picture."""
        from mpreg_nb.notebook.widgets import of_no_cell

        # The page that has the output shows the end already, and needs no widget.
        self._place.clear()
        of_no_cell(lambda: self._draw(html))

    def close(self) -> None:
        """Release the output."""
        from mpreg_nb.notebook.widgets import of_no_cell

        def close() -> None:
            self._widget.layout.close()
            self._widget.close()

        of_no_cell(close)

    def _draw(self, html: str) -> None:
        picture = f'[data-mpreg-still="{escape(self._picture)}"]'
        hides = f".jp-OutputArea-child:has({picture}){{display:none}}"
        end = f'<div class="mpreg-end">{html}</div>'
        self._widget.value = f"<style>{hides}</style>{end}"
        self._widget.layout.display = None


class LateEnds:
    """The LateEnd objects of one shell."""

    def __init__(self) -> None:
        self._kept: deque[LateEnd] = deque()

    def make(self, publisher: Any, picture: str) -> LateEnd:
        """Return a LateEnd for the picture with this id."""
        if len(self._kept) == MOST_ENDS:
            self._kept.popleft().close()
        made = LateEnd(publisher, picture)
        self._kept.append(made)
        return made

    def close(self) -> None:
        """Release all outputs."""
        while self._kept:
            self._kept.pop().close()
