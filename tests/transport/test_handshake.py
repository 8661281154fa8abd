"""The proof and the rules for headers, without a socket."""

from typing import Any

import pytest
from msgspec.structs import replace
from websockets.datastructures import Headers

from mpreg_nb.transport.handshake import (
    HandshakeHello,
    HandshakeRefused,
    Welcome,
    bearer,
    check_origin_and_host,
    dialler_proof,
    hello_headers,
    is_loopback,
    link_keys,
    listener_proof,
    proves,
    read_hello,
    read_welcome,
    welcome_headers,
)
from mpreg_nb.transport.token import Token

TOKEN = Token("kq2Jq0p3sS8Jm1nVb7Qw4x")
HELLO = HandshakeHello(
    role="node",
    lane="data",
    name="n2",
    nonce=bytes(16),
    cluster_id="c1",
    node_name="n1",
    key_id="00" * 8,
    mac=True,
)
WELCOME = Welcome(nonce=bytes(range(16)), cluster_id="c1", node_name="n1", mac=True)


def test_the_proofs_are_these_bytes() -> None:
    proofs = listener_proof(TOKEN, HELLO, WELCOME), dialler_proof(TOKEN, HELLO, WELCOME)
    keys = link_keys(TOKEN, HELLO, WELCOME)

    assert [made.hex() for made in proofs + keys] == [
        "5ded9b88e451bcf37a9e8f56f5877ed459133a0104f34ae076d36a5a99d03208",
        "61d5a053aa9cfb12b0bc1bfa7848d330b79da2282bcfc2fcabf72b81a80d76a0",
        "b8b9c97547cf3d4a26edcf2432080804b759bcd24c18a1c35013cfd101f804bd",
        "cc1458a33c32d3377595643c0291ac4943dd4bcb90f87e62f6c9d5ecc40fe98a",
    ]


@pytest.mark.parametrize(
    ("hello", "welcome"),
    [
        ({"role": "client"}, {}),
        ({"lane": "control"}, {}),
        ({"name": "n3"}, {}),
        ({"nonce": b"\x01" * 16}, {}),
        ({"key_id": "01" * 8}, {}),
        ({"mac": False}, {}),
        ({}, {"mac": False}),
        ({}, {"nonce": b"\x01" * 16}),
        ({}, {"cluster_id": "c2"}),
        ({}, {"node_name": "n2"}),
    ],
)
def test_a_proof_is_valid_for_its_own_messages_only(
    hello: dict[str, Any], welcome: dict[str, Any]
) -> None:
    other = replace(HELLO, **hello), replace(WELCOME, **welcome)

    assert listener_proof(TOKEN, *other) != listener_proof(TOKEN, HELLO, WELCOME)
    assert dialler_proof(TOKEN, *other) != dialler_proof(TOKEN, HELLO, WELCOME)


def test_neither_side_can_answer_with_the_proof_of_the_other() -> None:
    assert listener_proof(TOKEN, HELLO, WELCOME) != dialler_proof(TOKEN, HELLO, WELCOME)


def test_fields_that_run_together_do_not_prove_the_same() -> None:
    one = replace(WELCOME, cluster_id="c1n", node_name="1")
    other = replace(WELCOME, cluster_id="c1", node_name="n1")

    assert listener_proof(TOKEN, HELLO, one) != listener_proof(TOKEN, HELLO, other)


def test_a_cut_off_proof_proves_nothing() -> None:
    right = dialler_proof(TOKEN, HELLO, WELCOME)

    assert proves(right, right)
    assert not proves(right[:-1], right)
    assert not proves(b"", right)


@pytest.mark.parametrize(
    "hello",
    [
        HELLO,
        replace(HELLO, role="client", cluster_id="", node_name=""),
        replace(HELLO, key_id="", mac=False),
        replace(HELLO, name="ноутбук №1", node_name="node 'ü' \u4e00"),
    ],
    ids=["all said", "nothing expected", "no MAC needed", "names in other scripts"],
)
def test_the_message_of_a_dialler_arrives_unchanged(hello: HandshakeHello) -> None:
    headers = Headers(hello_headers(hello))

    assert headers.serialize().isascii()
    assert read_hello(headers, hello.lane) == hello


def test_the_message_of_a_listener_arrives_unchanged() -> None:
    welcome = replace(WELCOME, node_name="узел", proof=b"\x07" * 32)

    assert read_welcome(Headers(welcome_headers(welcome))) == welcome


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Mpreg-Nonce", ""),
        ("X-Mpreg-Nonce", "00" * 15),
        ("X-Mpreg-Nonce", "zz" * 16),
        ("X-Mpreg-Role", "admin"),
        ("X-Mpreg-Role", ""),
        ("X-Mpreg-Name", ""),
        ("X-Mpreg-Name", "a%2Fb"),
        ("X-Mpreg-Name", "a%0Ab"),
        ("X-Mpreg-Name", "%FF"),
        ("X-Mpreg-Name", "n" * 129),
        ("X-Mpreg-Key", "00" * 7),
        ("X-Mpreg-Key", "zz" * 8),
        ("X-Mpreg-Mac", "0"),
        ("X-Mpreg-Cluster", "c 1"),
        ("X-Mpreg-Cluster", "c" * 65),
        ("X-Mpreg-Node", "a%00b"),
    ],
)
def test_a_malformed_hello_is_a_bad_request(header: str, value: str) -> None:
    headers = Headers(hello_headers(HELLO) | {header: value})

    with pytest.raises(HandshakeRefused) as caught:
        read_hello(headers, "data")

    assert caught.value.status == 400


@pytest.mark.parametrize("header", list(hello_headers(HELLO)))
def test_a_header_that_is_there_twice_is_a_bad_request(header: str) -> None:
    headers = Headers(hello_headers(HELLO))
    headers[header] = headers[header]  # adds; does not replace

    with pytest.raises(HandshakeRefused) as caught:
        read_hello(headers, "data")

    assert caught.value.status == 400


def test_clients_are_kept_off_the_control_lane() -> None:
    headers = Headers(hello_headers(replace(HELLO, role="client")))

    with pytest.raises(HandshakeRefused) as caught:
        read_hello(headers, "control")

    assert caught.value.status == 403


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:5000",
        "127.8.9.10",
        "[::1]",
        "[::1]:5000",
        "localhost",
        "LocalHost:80",
        "n1.example.org:7400",
    ],
)
def test_loopback_and_our_own_names_are_served(host: str) -> None:
    check_origin_and_host(Headers(Host=host), frozenset({"n1.example.org"}))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Host", "evil.example")], 403),
        ([("Host", "127.0.0.1.evil.example")], 403),
        ([("Host", "localhost.evil.example:80")], 403),
        ([("Host", "10.0.0.5")], 403),
        ([("Host", "127.0.0.1@evil.example")], 403),
        ([("Host", "")], 403),
        ([], 400),
        ([("Host", "localhost"), ("Host", "localhost")], 400),
        ([("Host", "localhost"), ("Origin", "https://evil.example")], 403),
        ([("Host", "localhost"), ("ORIGIN", "http://localhost")], 403),
        ([("Host", "localhost"), ("Origin", "null")], 403),
        ([("Host", "localhost"), ("Origin", "")], 403),
        ([("Host", "localhost"), ("Origin", "a"), ("origin", "b")], 400),
    ],
)
def test_web_pages_and_foreign_names_are_not_served(
    headers: list[tuple[str, str]], status: int
) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        check_origin_and_host(Headers(headers), frozenset({"n1.example.org"}))

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),  # noqa: S104 - not bound
        ("::", False),
        ("10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback_is_recognized_by_address_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Bearer abc"], "abc"),
        (["bearer  abc "], "abc"),
        (["Basic abc"], ""),
        (["abc"], ""),
        ([], ""),
        (["Bearer abc", "Bearer abc"], ""),
    ],
)
def test_the_token_of_a_foreign_client_is_in_one_bearer_header(
    values: list[str], expected: str
) -> None:
    headers = Headers([("Authorization", value) for value in values])

    assert bearer(headers) == expected
