"""Which demos there are. Light, since the command line reads it at each start."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from mpreg_nb.demo.story import Story

DEMOS = {
    "cluster": "three of four nodes are lost, and no work",
    "events": "a chain of events, a slow consumer, a node that dies",
    "inference": "models that serve; one is replaced under load",
    "monitoring": "what nodes say, and an alert when one dies",
    "orders": "500 buyers on a stock of 100; a saga undoes an order",
    "pipeline": "61 years of ocean temperatures: checked, stored",
}
"""Name of a demo, which is the name of its module here -> what happens in it."""


def listing() -> str:
    """Return the demos as lines for a terminal."""
    rows = {"": "the guided tour, in a minute and a half", **DEMOS}
    return "\n".join(
        [f"mpreg-nb demo {name:11} {about}" for name, about in rows.items()]
    )


def demo(name: str = "tour") -> "Callable[[Story], None]":
    """Return the function that runs a demo and tells it; the tour by default."""
    module = import_module(f"mpreg_nb.demo.{name}")
    return cast("Callable[[Story], None]", module.tell)
