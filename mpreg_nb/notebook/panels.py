"""Shows live views in a notebook: a still picture, and a live widget.

The still picture and the widget are two outputs of the cell. A saved notebook, or
one that is not trusted, has the still picture; the script of the widget hides it
while the widget is there. The widget's output is emptied when the view ends, since a
front end shows an error for a widget that is gone. Widgets are imported when the
first view is shown.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mpreg_nb.notebook.replaceable_output import Place, still
from mpreg_nb.view.plain_mode import on_terminal, plain

if TYPE_CHECKING:
    from mpreg_nb.cluster.live import LiveView
    from mpreg_nb.notebook.widgets import LiveWidget
    from mpreg_nb.view.live.panel import Picture


STILL_EVERY_S = 10.0
"""Between two replacements of the still picture; the end of a view replaces it too."""

MOST_PANELS = 12
"""More panels would slow down the front end; the oldest are closed."""

_LIVE_VIEW = ("mpreg_nb.cluster.live", "LiveView")


class Panel:
    """One view in one cell."""

    def __init__(
        self,
        view: "LiveView",
        publisher: Any,
        *,
        cell: str,
        request: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cell` and `request` identify the cell, and the execution of the cell."""
        from mpreg_nb.cluster.live import updates_of

        self._clock = clock
        self.view = view
        self._updates = updates_of(view)
        self.cell = cell
        self.request = request
        self.ended = False
        self._still_place = Place(publisher)
        self._widget_place = Place(publisher)
        self._shown: dict[str, Picture] = {}  # by the still picture
        self._next_still = 0.0
        self._widget: LiveWidget | None = None

    def show(self) -> None:
        """Show the still picture, and the widget after it."""
        from mpreg_nb.notebook.widgets import LiveWidget, of_no_cell

        pictures = self._updates.current(at_once=True)
        self._still(pictures)
        widget: LiveWidget = of_no_cell(
            lambda: LiveWidget(
                pictures, id=self._still_place.id, views=list(self.view.views)
            )
        )
        widget.on_msg(self._asked)
        self._widget = widget
        data, metadata = widget._repr_mimebundle_() or ({}, {})
        self._widget_place.put({**data, "text/plain": ""}, metadata)
        self._updates.add(self)

    def take(self, pictures: "Mapping[str, Picture]") -> None:
        """Show changes: at once in the widget, now and then in the still picture."""
        if self._widget is not None:
            self._widget.draw(pictures)
        if self._clock() >= self._next_still and _differ(pictures, self._shown):
            self._still(pictures)

    def end(self, pictures: "Mapping[str, Picture]") -> None:
        """Show the last state as a still picture, and remove the widget."""
        from mpreg_nb.notebook.widgets import of_no_cell

        self.ended = True
        self._still(pictures)
        if self._widget is not None:
            self._widget.draw(pictures)
            self._widget_place.clear()
            of_no_cell(self._widget.close)

    def leave(self) -> None:
        """Close this panel; its view may be shown in other cells."""
        self._updates.drop(self)
        if not self.ended:
            self.end(self._updates.current())

    def _still(self, pictures: "Mapping[str, Picture]") -> None:
        from mpreg_nb.view.live import panel

        html = still(self._still_place.id, panel.html(pictures))
        self._still_place.put({"text/plain": panel.text(pictures), "text/html": html})
        self._shown = dict(pictures)
        self._next_still = self._clock() + STILL_EVERY_S

    def _asked(self, widget: Any, content: Any, buffers: Any) -> None:
        """Perform the action of a button; ignore all other messages."""
        match content:
            case {"do": "kill", "node": str(node)}:
                self._updates.kill(node)
            case {"do": "cancel", "run": str(run)}:
                self._updates.cancel(run)
            case {"do": "close"}:
                self.view.close()


def _differ(pictures: "Mapping[str, Picture]", shown: "Mapping[str, Picture]") -> bool:
    return any(shown.get(name) is not picture for name, picture in pictures.items())


class Panels:
    """The panels of one shell. A cell that runs again closes its earlier panels."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._open: list[Panel] = []

    def show(self, view: "LiveView") -> None:
        """Show `view` in the cell that runs; called by the formatter of live views.

        Raises:
            NotImplementedError: the view cannot be live here. The formatter then shows
                its MIME bundle.
        """
        if plain() or on_terminal() or view.closed:
            raise NotImplementedError
        parent: dict[str, Any] = getattr(self._shell, "get_parent", dict)()
        cell = parent.get("metadata", {}).get("cellId", "")
        request = parent.get("header", {}).get("msg_id", "")
        self._open = [panel for panel in self._open if not panel.ended]
        again = [p for p in self._open if cell and p.cell == cell]
        for panel in [
            *(p for p in again if p.request != request),
            *self._open[: 1 - MOST_PANELS or None],
        ]:
            panel.leave()
        panel = Panel(view, self._shell.display_pub, cell=cell, request=request)
        self._open.append(panel)
        panel.show()

    def close(self) -> None:
        """End all panels."""
        for panel in self._open:
            panel.leave()
        self._open.clear()


def attach(shell: Any) -> Callable[[], None]:
    """Show live views in the cells of `shell`; return the function that ends this."""
    panels = Panels(shell)
    formatter = shell.display_formatter.ipython_display_formatter
    formatter.for_type_by_name(*_LIVE_VIEW, panels.show)

    def detach() -> None:
        panels.close()
        formatter.pop(".".join(_LIVE_VIEW), None)

    return detach
