"""The catalog and the members as the client last heard of them.

It may be late; what it leads to wrongly is refused by the node and sent through
the node of the link. What this client registered itself is never forgotten.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from mpreg_nb.wire.gossip import Load, MemberRecord, MemberState, Offer
from mpreg_nb.wire.pictures import NodePicture, Snapshot
from mpreg_nb.wire.versions import minor_of


class Mirror:
    """The newest snapshot, with the own registrations on top."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._offers: dict[str, list[tuple[str, Offer]]] = {}
        self._own: dict[str, Offer] = {}  # newest own registration of each name
        self._newest: dict[str, Offer | None] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot."""
        self.snapshot = snapshot
        offers: dict[str, list[tuple[str, Offer]]] = {}
        for owner, offer in snapshot.offers:
            offers.setdefault(offer.function, []).append((owner, offer))
        self._offers = offers
        self._newest.clear()
        for offer in self._own.values():
            self._add(offer)

    def loads_told(self, loads: Mapping[str, Load]) -> Snapshot | None:
        """Return the snapshot with newer loads of some nodes; it is the newest now."""
        if self.snapshot is not None:
            nodes = tuple(_with(picture, loads) for picture in self.snapshot.nodes)
            self.snapshot = replace(self.snapshot, nodes=nodes)
        return self.snapshot

    def registered(self, offer: Offer) -> None:
        """Note an own registration, of which no snapshot may tell yet."""
        self._own[offer.function] = offer
        self._add(offer)

    def offers(self, function: str) -> Iterable[tuple[str, Offer]]:
        """Return (owner, offer) of every version of `function`."""
        return self._offers.get(function, ())

    def entries(self) -> Iterable[tuple[str, Offer]]:
        """Return (owner, offer) of all that is offered."""
        return [pair for pairs in self._offers.values() for pair in pairs]

    def newest(self, function: str) -> Offer | None:
        """Return the newest registration of a name that was ever heard of."""
        if function not in self._newest:
            self._newest[function] = max(
                (offer for _, offer in self.offers(function)),
                key=lambda offer: (offer.counter, offer.origin),
                default=None,
            )
        return self._newest[function]

    @property
    def nodes(self) -> tuple[NodePicture, ...]:
        """The members, sorted by name, also those that are dead or left."""
        return () if self.snapshot is None else self.snapshot.nodes

    @property
    def urls(self) -> tuple[str, ...]:
        """Return where members that may still live can be reached, suspects last."""
        return tuple(
            url
            for picture in sorted(self.nodes, key=lambda one: one.record.state)
            if picture.record.state <= MemberState.SUSPECT
            for url in picture.record.urls
        )

    def record(self, node: str) -> MemberRecord | None:
        """Return what is known of `node`."""
        for picture in self.nodes:
            if picture.record.name == node:
                return picture.record
        return None

    def resources(self, state: MemberState) -> dict[str, frozenset[str]]:
        """Return node -> resources of the members in `state`."""
        return {
            picture.record.name: picture.record.resources
            for picture in self.nodes
            if picture.record.state is state
        }

    @property
    def pythons(self) -> dict[str, str]:
        """Return node -> minor version of its Python."""
        return {
            picture.record.name: minor_of(picture.record.python)
            for picture in self.nodes
        }

    @property
    def workerless(self) -> frozenset[str]:
        """Return the nodes without worker processes."""
        return frozenset(
            picture.record.name for picture in self.nodes if not picture.record.workers
        )

    def _add(self, offer: Offer) -> None:
        self._newest.clear()
        pairs = self._offers.setdefault(offer.function, [])
        if (offer.origin, offer) not in pairs:
            pairs.append((offer.origin, offer))


def _with(picture: NodePicture, loads: Mapping[str, Load]) -> NodePicture:
    """Return the picture with a newer load, unless the node is gone."""
    load = loads.get(picture.record.name)
    if load is None or picture.record.state > MemberState.SUSPECT:
        return picture
    return replace(picture, load=load)
