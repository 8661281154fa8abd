"""The widget that draws a live view: its traits, and what its buttons send."""

from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from typing import TypeVar

import anywidget
import traitlets

from mpreg_nb.notebook import esm
from mpreg_nb.view.live.panel import Picture

T = TypeVar("T")


class LiveWidget(anywidget.AnyWidget):
    """A panel in a front end. Each trait is a picture, replaced whole.

    The script keeps no state of the cluster: it draws the traits, and sends what
    its buttons ask for.
    """

    _esm = esm.script()
    _css = esm.style()
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
