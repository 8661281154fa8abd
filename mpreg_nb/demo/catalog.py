"""Which demos there are. Light, since the command line reads it at each start."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from mpreg_nb.demo.story import Story

DEMOS = {
    "cluster": "one node is killed, one hangs, one is cut off; all results are right",
    "orders": "500 buyers at once on a stock of 100; a saga undoes an order",
    "pipeline": "61 years of ocean temperatures: checked, repaired, stored",
}
"""Name of a demo, which is the name of its module here -> what happens in it."""


def listing() -> str:
    """Return the demos as lines for a terminal."""
    rows = {"": "a workflow on measured data, its tables, a notebook", **DEMOS}
    return "\n".join(
        [f"mpreg-nb demo {name:10} {about}" for name, about in rows.items()]
    )


def demo(name: str) -> "Callable[[Story], None]":
    """Return the function that runs a demo and tells it."""
    module = import_module(f"mpreg_nb.demo.{name}")
    return cast("Callable[[Story], None]", module.tell)
