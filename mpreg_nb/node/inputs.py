"""Results that a call refers to, brought here before it runs."""

import asyncio

import msgspec

from mpreg_nb.node.asks import Asks
from mpreg_nb.node.own import Inputs as AtHand
from mpreg_nb.node.recent import Found, Recent
from mpreg_nb.node.store import Store
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.items import gather
from mpreg_nb.wire.messages import Failed, Failure, Gathered, Kept, Result


class Inputs:
    """Takes inputs from the message, from the store here, or from their owner.

    What several calls want at about the same time is fetched once for all, if
    `shares`; then `stop` is to be called at the end.
    """

    def __init__(
        self, me: str, store: Store, asks: Asks, *, shares: bool = False
    ) -> None:
        self._me = me
        self._store = store
        self._asks = asks
        self._recent = Recent(self._fetch) if shares else None

    def stop(self) -> None:
        """Fetch nothing any more."""
        if self._recent is not None:
            self._recent.stop()

    def at_hand(self, wanted: tuple[Result, ...]) -> AtHand | None:
        """Return all of `wanted` if none has to be fetched; costs no task."""
        found: list[Found] = []
        for one in wanted:
            if isinstance(one, bytes):
                found.append(one)
                continue
            if isinstance(one, Gathered) or one.owner != self._me:
                return None
            held = self._store.find(one)
            if held is None:
                return None
            found.append(held)
        return tuple(found)

    async def gather(self, wanted: tuple[Result, ...]) -> AtHand | Failure:
        """Return all of `wanted` in their order, or why one of them is not to be had.

        Those of other nodes are fetched at the same time.
        """
        found = await asyncio.gather(*map(self.one, wanted))
        inputs: list[Found] = []
        for one in found:
            if isinstance(one, Failure):
                return one
            inputs.append(one)
        return tuple(inputs)

    async def one(self, wanted: Result) -> Found | Failure:
        """Return one result, or why it is not to be had."""
        if isinstance(wanted, bytes):
            return wanted
        if isinstance(wanted, Gathered):
            return await self._list(wanted)
        if wanted.owner == self._me:
            held = self._store.find(wanted)
            return Failure(kind="gone", node=self._me) if held is None else held
        if self._recent is not None and not wanted.count:
            return await self._recent.get(wanted)
        return await self._fetch(wanted)

    async def _fetch(self, wanted: Kept) -> Found | Failure:
        answer, parts = await self._asks.result(wanted)
        if isinstance(answer, Failed):
            return answer.failure
        return parts or (answer.payload,)

    async def _list(self, wanted: Gathered) -> Found | Failure:
        """Return the list of results, those that are held together fetched as one."""
        wholes: dict[bytes, Kept] = {}
        for item in wanted.items:
            if isinstance(item, Kept):
                whole = msgspec.structs.replace(item, first=0, count=0)
                wholes[item.id] = whole if item.count else item
        found = await self.gather(tuple(wholes.values()))
        if isinstance(found, Failure):
            return found
        held = dict(zip(wholes, map(_parts, found), strict=True))
        return gather(
            [
                (item,)
                if isinstance(item, bytes)
                else held[item.id][item.first : item.first + item.count]
                if item.count
                else held[item.id]
                for item in wanted.items
            ]
        )


def _parts(found: Found) -> tuple[Buffer, ...]:
    return (found,) if isinstance(found, bytes) else found
