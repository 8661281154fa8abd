"""Events inside one node: whoever publishes one does not know who subscribes to it."""

from collections.abc import Callable
from typing import Generic, TypeVarTuple

from mpreg_nb.transport.timer import run_each

Values = TypeVarTuple("Values")


class Event(Generic[*Values]):
    """Something that happens again and again, with values that tell what it was."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[*Values], object]] = []

    def subscribe(self, *subscribers: Callable[[*Values], object]) -> None:
        """Call these each time, in the order in which they subscribed."""
        self._subscribers += subscribers

    def __call__(self, *values: *Values) -> None:
        """Publish the event: call all subscribers, one after the other.

        What one raises goes to the handler of the loop, and costs no other the event.
        """
        run_each(lambda subscriber: subscriber(*values), self._subscribers)
