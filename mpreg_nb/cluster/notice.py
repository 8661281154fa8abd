"""What a decorated cell says by itself: nothing, unless results became stale."""

import sys
from typing import Any

from mpreg_nb.client.output import write_at_once
from mpreg_nb.cluster.functions import Function


def tell_stale(function: Function[Any, Any]) -> None:
    """Write one line where results of an older version are about: nothing else does.

    A cell that ends in a `def` shows no card.
    """
    card = function.card
    if card is not None and card.replaces is not None and card.replaces.results:
        write_at_once(sys.stdout, f"{card.notice}\n")
