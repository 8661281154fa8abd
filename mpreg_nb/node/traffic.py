"""What went over the links of a node, summed up by who is at the other end."""

from collections.abc import Iterable

from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.facts import LinkStatistics, Role
from mpreg_nb.wire.pictures import LinkPicture, Traffic


def traffic_of(request_id: bytes, node: str, links: Iterable[Connection]) -> Traffic:
    """Return one row for each peer; JSON clients, which have no name, have none."""
    counts: dict[tuple[Role, str], list[LinkStatistics]] = {}
    for link in links:
        if link.peer.name:
            key = (link.peer.role, link.peer.name)
            counts.setdefault(key, []).append(link.statistics())
    return Traffic(
        id=request_id,
        node=node,
        links=tuple(
            LinkPicture(
                peer=peer,
                role=role,
                sent_bytes=sum(one.bytes_out for one in each),
                received_bytes=sum(one.bytes_in for one in each),
                sent_messages=sum(one.messages_out for one in each),
                received_messages=sum(one.messages_in for one in each),
            )
            for (role, peer), each in sorted(counts.items())
        ),
    )
