"""The data lane: what a client does to a node to see how the others cope."""

from typing import Annotated

from msgspec import Meta

from mpreg_nb.wire.message import Message, Name, RequestId

LONGEST_CUT_MS = 600_000
"""The node itself ends what a client began and did not live to end."""


class Partition(Message, frozen=True, kw_only=True, array_like=True, tag="partition"):
    """For `for_ms`, hear none of `nodes` and say nothing to them; answered by Reply.

    As if the cable were cut: links stay and carry nothing, dials get no answer.
    """

    id: RequestId
    nodes: tuple[Name, ...]
    for_ms: Annotated[int, Meta(ge=1, le=LONGEST_CUT_MS)]
