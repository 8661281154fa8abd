"""Comparing two tables of members with few bytes, to catch what gossip missed.

Two nodes first compare one hash of all they know; only where it differs, one
line for each member; only for those that differ, the records.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from mpreg_nb.protocol.gossip import (
    Digest,
    MemberRecord,
    MemberState,
    NodeName,
    SyncPush,
)

PUSH_RECORDS = 200
"""Records in one push: some 30 kB, so that pings need not wait behind it."""

_encode = msgspec.msgpack.Encoder().encode


class Differences(msgspec.Struct, frozen=True):
    """What has to go which way so that both know the same."""

    push: tuple[NodeName, ...]  # known better here
    pull: tuple[NodeName, ...]  # known better there
    catalogs: tuple[Digest, ...]  # same process, later catalog there


def digest(record: MemberRecord) -> Digest:
    """Return the line that stands for `record`."""
    return Digest(
        record.name,
        record.generation,
        int.from_bytes(record.epoch[:4], "big"),
        record.incarnation,
        record.state,
        record.catalog_version,
    )


def root(lines: Iterable[Digest]) -> bytes:
    """Return 8 bytes that are equal for equal lines, whatever their order.

    >>> line = Digest("a", 1, 7, 1, MemberState.ALIVE, 0)
    >>> root([line]) == root([line]), root([line]) == root([])
    (True, False)
    """
    ordered = sorted(lines, key=lambda line: line.name)
    return hashlib.blake2b(_encode(ordered), digest_size=8).digest()


def differences(
    here: Mapping[NodeName, MemberRecord], there: Sequence[Digest]
) -> Differences:
    """Return what the lines of another node say against the records known here."""
    push: list[NodeName] = []
    pull: list[NodeName] = []
    catalogs: list[Digest] = []
    for line in there:
        known = here.get(line.name)
        if known is None:
            pull.append(line.name)
            continue
        mine, theirs = _order(digest(known)), _order(line)
        if mine > theirs:
            push.append(line.name)
        elif mine < theirs:
            pull.append(line.name)
        elif known.catalog_version < line.catalog_version:
            catalogs.append(line)
        elif known.catalog_version > line.catalog_version:
            push.append(line.name)
    listed = {line.name for line in there}
    push.extend(name for name in here if name not in listed)
    return Differences(tuple(push), tuple(pull), tuple(catalogs))


def pushes(records: Sequence[MemberRecord]) -> Iterator[SyncPush]:
    """Yield messages with `records`, the last of them marked; one if there are none."""
    for start in range(0, max(1, len(records)), PUSH_RECORDS):
        end = start + PUSH_RECORDS
        yield SyncPush(records=tuple(records[start:end]), last=end >= len(records))


def _order(line: Digest) -> tuple[int, int, bool, int, int]:
    # As `member.precedence`, with what a line has of the epoch.
    return (
        line.generation,
        line.epoch_head,
        line.state is MemberState.LEFT,
        line.incarnation,
        line.state,
    )
