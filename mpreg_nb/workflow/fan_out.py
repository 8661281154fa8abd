"""The items of one map step while they are under way."""

from typing import Any

from mpreg_nb.workflow.states import Execution, Items

NAMED_NODES = 3
"""How many of the nodes that ran items are named where there are more."""


class FanOut:
    """Results of the items by their places, and which nodes they came from."""

    def __init__(self, items: int) -> None:
        self._results: list[Any] = [None] * items
        self._open = items
        self._size_bytes = 0
        self._nodes: dict[str, None] = {}
        self._version = ""
        self.execution = Execution()

    @property
    def done(self) -> int:
        """How many items have a result."""
        return len(self._results) - self._open

    @property
    def is_done(self) -> bool:
        """Whether all items have one."""
        return self._open == 0

    @property
    def size_bytes(self) -> int:
        """Of all results so far."""
        return self._size_bytes

    def finished(
        self, item: int, result: Any, result_bytes: int | None, said: Execution
    ) -> None:
        """Note the result of an item; to be called once for each."""
        self._results[item] = result
        self._open -= 1
        self._size_bytes += result_bytes or 0
        if said.node not in self._nodes or said.version != self._version:
            self._nodes[said.node] = None
            self._version = said.version
            self.execution = Execution(node=shown(self._nodes), version=said.version)

    def gathered(self) -> Items:
        """Return all results in the order of the items."""
        return Items(tuple(self._results))


def shown(nodes: dict[str, None]) -> str:
    """Name the nodes that ran items.

    >>> shown(dict.fromkeys(["n2", "n1"]))
    'n1, n2'
    >>> shown(dict.fromkeys(["n1", "n2", "n3", "n4", "n5"]))
    'n1, n2, n3 and 2 more'
    """
    names = sorted(filter(None, nodes))
    more = len(names) - NAMED_NODES
    listed = ", ".join(names[:NAMED_NODES])
    return f"{listed} and {more} more" if more > 0 else listed
