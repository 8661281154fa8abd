"""The bytes of every control message, so that a change of the wire shows."""

from typing import Any, get_args

import msgspec
import pytest

from mpreg_nb.protocol.gossip import (
    Ack,
    Announce,
    CatalogPull,
    CatalogPush,
    Control,
    Digest,
    Gossip,
    Hello,
    IndirectAck,
    Item,
    Leave,
    Load,
    LoadNews,
    MemberRecord,
    MemberState,
    Nack,
    Offer,
    Ping,
    PingReq,
    SyncDigest,
    SyncPull,
    SyncPush,
    Verdict,
    YouAreDead,
)

EPOCH = bytes(range(16))

RECORD = MemberRecord(
    name="n1",
    generation=2,
    epoch=EPOCH,
    incarnation=3,
    urls=("ws://h:1",),
    resources=frozenset({"gpu"}),
    workers=2,
    slots=4,
    host="h",
    python="3.11.7",
    catalog_version=5,
    certificate_ends_s=1_800_000_000,
    engine="dask://h:1",
)
LOAD = Load(
    running=1,
    queued=2,
    slots=4,
    latency_ms=0.5,
    loop_lag_ms=1.5,
    cpu_percent=12.5,
    memory_mb=60,
    uptime_s=7,
    serial=8,
    shared_memory_mb=300,
)
OFFER = Offer(
    function="train",
    version="0123456789abcdef0123456789abcdef",
    resources=frozenset({"gpu"}),
    counter=1,
    origin="n1",
    signature="(rows)",
    doc="Fit.",
    size_bytes=800,
    python="3.11",
)
VERDICT = Verdict(
    name="n2",
    generation=1,
    epoch=EPOCH,
    incarnation=4,
    state=MemberState.SUSPECT,
    by=("n1", "n3"),
    refused=("n1",),
)
ANNOUNCE = Announce(owner="n1", generation=2, version=5, delta=(OFFER,))
LOAD_NEWS = LoadNews(name="n1", generation=2, serial=9, load=LOAD)
DIGEST = Digest("n1", 2, 0x00010203, 3, MemberState.ALIVE, 5)

GOLDEN: list[tuple[Control, str]] = [
    (
        Hello(record=RECORD, joined=True),
        "93a568656c6c6fdc0011a66d656d626572a26e3102c410000102030405060708090a0b0c"
        "0d0e0f030091a877733a2f2f683a3191a36770750204a168a6332e31312e37059000ce6b"
        "49d200aa6461736b3a2f2f683a31c3",
    ),
    (
        Ping(seq=1, epoch=EPOCH),
        "95a470696e6701c410000102030405060708090a0b0c0d0e0f90c0",
    ),
    (
        Ping(seq=300, epoch=EPOCH, items=(VERDICT,), load=LOAD),
        "95a470696e67cd012cc410000102030405060708090a0b0c0d0e0f9198a7766572646963"
        "74a26e3201c410000102030405060708090a0b0c0d0e0f040192a26e31a26e3391a26e31"
        "9ca46c6f6164010204cb3fe0000000000000cb3ff8000000000000c2cb40290000000000"
        "003c0708cd012c",
    ),
    (
        Ack(seq=1),
        "94a361636b0190c0",
    ),
    (
        Ack(seq=1, items=(ANNOUNCE,), load=LOAD),
        "94a361636b019195a8616e6e6f756e6365a26e310205919ea56f66666572a5747261696e"
        "d920303132333435363738396162636465663031323334353637383961626364656691a3"
        "67707501a26e31c2a770726f63657373c3a628726f777329a44669742ecd0320c2a4332e"
        "31319ca46c6f6164010204cb3fe0000000000000cb3ff8000000000000c2cb4029000000"
        "0000003c0708cd012c",
    ),
    (
        PingReq(seq=1, target="n2", epoch=EPOCH),
        "95a570696e673f01a26e32c410000102030405060708090a0b0c0d0e0f90",
    ),
    (
        IndirectAck(seq=1),
        "93a461636b210190",
    ),
    (
        Nack(seq=1, items=(VERDICT,)),
        "93a46e61636b019198a776657264696374a26e3201c410000102030405060708090a0b0c"
        "0d0e0f040192a26e31a26e3391a26e31",
    ),
    (
        Gossip(items=(RECORD, VERDICT, ANNOUNCE, LOAD_NEWS)),
        "93a6676f7373697094dc0011a66d656d626572a26e3102c410000102030405060708090a"
        "0b0c0d0e0f030091a877733a2f2f683a3191a36770750204a168a6332e31312e37059000"
        "ce6b49d200aa6461736b3a2f2f683a3198a776657264696374a26e3201c4100001020304"
        "05060708090a0b0c0d0e0f040192a26e31a26e3391a26e3195a8616e6e6f756e6365a26e"
        "310205919ea56f66666572a5747261696ed9203031323334353637383961626364656630"
        "31323334353637383961626364656691a367707501a26e31c2a770726f63657373c3a628"
        "726f777329a44669742ecd0320c2a4332e313195a462757379a26e3102099ca46c6f6164"
        "010204cb3fe0000000000000cb3ff8000000000000c2cb40290000000000003c0708cd01"
        "2cc0",
    ),
    (
        SyncDigest(root=b"8 bytes."),
        "93a6646967657374c408382062797465732ec0",
    ),
    (
        SyncDigest(root=b"8 bytes.", entries=(DIGEST,)),
        "93a6646967657374c408382062797465732e9196a26e3102ce00010203030005",
    ),
    (
        SyncPull(names=("n1", "n2")),
        "92a470756c6c92a26e31a26e32",
    ),
    (
        SyncPush(records=(RECORD,)),
        "93a47075736891dc0011a66d656d626572a26e3102c410000102030405060708090a0b0c"
        "0d0e0f030091a877733a2f2f683a3191a36770750204a168a6332e31312e37059000ce6b"
        "49d200aa6461736b3a2f2f683a31c3",
    ),
    (
        CatalogPull(owner="n1", generation=2, from_version=3),
        "94a76f66666572733fa26e310203",
    ),
    (
        CatalogPush(
            owner="n1", generation=2, version=5, from_version=3, offers=(OFFER,)
        ),
        "98a66f6666657273a26e31020503919ea56f66666572a5747261696ed920303132333435"
        "363738396162636465663031323334353637383961626364656691a367707501a26e31c2"
        "a770726f63657373c3a628726f777329a44669742ecd0320c2a4332e31310001",
    ),
    (
        Leave(generation=2, epoch=EPOCH, incarnation=4, drain_s=10.0, reason="bye"),
        "96a56c6561766502c410000102030405060708090a0b0c0d0e0f04cb4024000000000000"
        "a3627965",
    ),
    (
        YouAreDead(verdict=VERDICT),
        "92a46465616498a776657264696374a26e3201c410000102030405060708090a0b0c0d0e"
        "0f040192a26e31a26e3391a26e31",
    ),
]

decoder = msgspec.msgpack.Decoder(Control)


@pytest.mark.parametrize(("message", "golden"), GOLDEN)
def test_message_has_these_bytes(message: Control, golden: str) -> None:
    assert msgspec.msgpack.encode(message).hex() == golden
    assert decoder.decode(bytes.fromhex(golden)) == message


def test_every_message_has_golden_bytes() -> None:
    assert {type(message) for message, _ in GOLDEN} == set(get_args(Control))


def test_no_two_structs_share_a_tag() -> None:
    structs = {*get_args(Control), *get_args(Item), Load, Offer}

    tags = [struct.__struct_config__.tag for struct in structs]

    assert len(set(tags)) == len(structs)


def changed(message: Control, place: int, value: Any) -> bytes:
    """The bytes of `message` with another value at one place of its array."""
    row = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    row[place] = value
    return msgspec.msgpack.encode(row)


@pytest.mark.parametrize(
    ("message", "place", "value"),
    [
        (Ack(seq=1), 1, -1),
        (Ack(seq=1), 1, 2**53 + 1),
        (Ack(seq=1), 1, "1"),
        (Ping(seq=1, epoch=EPOCH), 2, b"short"),
        (PingReq(seq=1, target="n2", epoch=EPOCH), 2, ""),
        (PingReq(seq=1, target="n2", epoch=EPOCH), 2, "n" * 129),
        (SyncDigest(root=b"8 bytes."), 1, b"seven b"),
        (CatalogPull(owner="n1", generation=1), 2, 2**32),
        (Leave(generation=1, epoch=EPOCH, incarnation=1), 4, -0.5),
        (Nack(seq=1), 0, "nobody knows this"),
    ],
)
def test_values_out_of_bounds_are_refused(
    message: Control, place: int, value: Any
) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(changed(message, place, value))


def test_a_state_that_is_none_is_refused() -> None:
    row = msgspec.msgpack.decode(msgspec.msgpack.encode(YouAreDead(verdict=VERDICT)))
    row[1][5] = 4

    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode(row))


def test_fields_that_are_not_known_are_refused() -> None:
    row = msgspec.msgpack.decode(msgspec.msgpack.encode(Ack(seq=1)))

    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode([*row, "more"]))


def test_states_are_ordered_by_what_wins() -> None:
    assert MemberState.ALIVE < MemberState.SUSPECT < MemberState.DEAD < MemberState.LEFT
