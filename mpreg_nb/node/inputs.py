"""Results that a call refers to, brought here before it runs."""

import asyncio

from mpreg_nb.node.asks import Asks
from mpreg_nb.node.own import Inputs as Gathered
from mpreg_nb.node.store import Store
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.messages import Failed, Failure, Kept


class Inputs:
    """Takes inputs from the message, from the store here, or from their owner."""

    def __init__(self, me: str, store: Store, asks: Asks) -> None:
        self._me = me
        self._store = store
        self._asks = asks

    def at_hand(self, wanted: tuple[bytes | Kept, ...]) -> Gathered | None:
        """Return all of `wanted` if none has to be fetched; costs no task."""
        found: list[bytes | tuple[Buffer, ...]] = []
        for one in wanted:
            if isinstance(one, bytes):
                found.append(one)
                continue
            held = self._store.get(one.id) if one.owner == self._me else None
            if held is None:
                return None
            found.append(held)
        return tuple(found)

    async def gather(self, wanted: tuple[bytes | Kept, ...]) -> Gathered | Failure:
        """Return all of `wanted` in their order, or why one of them is not to be had.

        Those of other nodes are fetched at the same time.
        """
        found = await asyncio.gather(*map(self._one, wanted))
        inputs: list[bytes | tuple[Buffer, ...]] = []
        for one in found:
            if isinstance(one, Failure):
                return one
            inputs.append(one)
        return tuple(inputs)

    async def _one(self, wanted: bytes | Kept) -> bytes | tuple[Buffer, ...] | Failure:
        if isinstance(wanted, bytes):
            return wanted
        if wanted.owner == self._me:
            held = self._store.get(wanted.id)
            return Failure(kind="gone", node=self._me) if held is None else held
        answer, parts = await self._asks.result(wanted)
        if isinstance(answer, Failed):
            return answer.failure
        return parts or (answer.payload,)
