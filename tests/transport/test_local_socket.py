"""Unix sockets between processes of one user; S27: other users cannot get in."""

import asyncio
import gc
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.transport import local_socket
from mpreg_nb.transport.acceptor import Acceptor
from mpreg_nb.transport.dial import DialFailed
from tests.support.links import TOKEN, Ear, house, linked, numbered, open_link

REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mpreg.data.v2\r\n"
    f"X-Mpreg-Nonce: {'00' * 16}\r\nX-Mpreg-Role: node\r\nX-Mpreg-Name: n2\r\n\r\n"
).encode()


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The system takes no name of a socket with more than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mpreg-") as short:
        folder = Path(short, "run")
        folder.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        monkeypatch.setenv("XDG_STATE_HOME", str(Path(short, "state")))
        yield folder


def files_in(folder: Path) -> list[Path]:
    """Return what is in `folder` that is no folder."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


async def test_a_node_of_this_machine_is_reached_through_its_unix_socket() -> None:
    part = bytes(range(256)) * 20_000
    async with house(local=True) as home:
        ear = Ear()
        link = await open_link(home.listener.url, ear)
        there = await home.ear()
        link.send(numbered(1))
        link.send(numbered(2), (part,))
        heard = await there.heard(there.messages, 2)
        assert there.connection is not None
        there.connection.send(numbered(3))
        back = await ear.message()
        link.close(1000, "bye")

        assert (link.peer.carrier, link.peer.address) == ("unix", "this machine")
        assert there.connection.peer.carrier == "unix"
        assert heard[0] == (numbered(1), ())
        assert bytes(heard[1][1][0]) == part
        assert back == (numbered(3), ())
        assert await there.lost() == "closed by the other end: 1000 bye"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_every_name_of_the_address_leads_to_the_socket(host: str) -> None:
    async with house(local=True, host="localhost") as home:
        link = await open_link(f"ws://{host}:{home.listener.port}")

        assert link.peer.carrier == "unix"
        link.close()
        await link.wait_closed()


def test_only_its_user_can_reach_the_socket() -> None:
    local = local_socket.bind("127.0.0.1", 7000, backlog=1)
    assert local is not None
    folder = local.path.parent.stat()

    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert folder.st_uid == os.geteuid()
    local.listening.close()
    local.close()


async def test_the_file_goes_with_the_listener(runtime: Path) -> None:
    async with house(local=True) as home:
        assert files_in(runtime) == [Path(home.listener.local_path)]

    assert files_in(runtime) == []


async def test_a_listener_that_goes_leaves_the_file_of_its_successor(
    runtime: Path,
) -> None:
    async with house(local=True) as home:
        successor = local_socket.bind("127.0.0.1", home.listener.port, backlog=1)
        assert successor is not None
        home.listener.stop_accepting()

        assert files_in(runtime) == [successor.path]
        successor.listening.close()
        successor.close()
        assert files_in(runtime) == []


async def test_a_socket_that_a_dead_node_left_is_removed_and_tcp_used(
    runtime: Path,
) -> None:
    async with house() as home:
        left = local_socket.bind("127.0.0.1", home.listener.port, backlog=1)
        assert left is not None
        left.listening.close()  # as when its process is killed
        link = await open_link(home.listener.url)

        assert link.peer.carrier == "tcp"
        assert files_in(runtime) == []
        link.close()
        await link.wait_closed()


def test_sweeping_removes_what_the_dead_left_and_nothing_else() -> None:
    dead = local_socket.bind("127.0.0.1", 7001, backlog=1)
    alive = local_socket.bind("127.0.0.1", 7002, backlog=1)
    assert dead is not None
    assert alive is not None
    dead.listening.close()

    local_socket.sweep()

    assert (dead.path.exists(), alive.path.exists()) == (False, True)
    alive.listening.close()
    local_socket.sweep()
    assert not alive.path.parent.exists()


async def test_a_process_of_another_user_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(local=True) as home:
        monkeypatch.setattr(local_socket, "peer_uid", lambda link: os.geteuid() + 1)
        answer = await exchange(home.listener.local_path, REQUEST)

        assert answer == b""
        assert f"it is of another user, {os.geteuid() + 1}" in caplog.text
        assert home.listener.unproven == 0


async def test_without_the_check_of_the_user_it_would_be_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with house(local=True) as home:
        monkeypatch.setattr(local_socket, "peer_uid", lambda link: os.geteuid() + 1)
        monkeypatch.setattr(local_socket, "is_own", lambda link: True)
        answer = await exchange(home.listener.local_path, REQUEST)

        assert answer.startswith(b"HTTP/1.1 101 ")


async def exchange(path: str, data: bytes) -> bytes:
    """Say `data` and no more; return all that comes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    except (BrokenPipeError, ConnectionResetError):
        return b""
    finally:
        writer.close()


async def test_a_socket_of_another_user_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(local=True) as home:
        monkeypatch.setattr(local_socket, "peer_uid", lambda link: os.geteuid() + 1)
        link = await open_link(home.listener.url)

        assert link.peer.carrier == "tcp"
        assert "a process of another user listens there" in caplog.text
        link.close()
        await link.wait_closed()


async def test_a_folder_that_others_can_enter_is_not_used() -> None:
    async with house(local=True) as home:
        folder = Path(home.listener.local_path).parent
        folder.chmod(0o755)
        link = await open_link(home.listener.url)

        assert link.peer.carrier == "tcp"
        link.close()
        await link.wait_closed()
        folder.chmod(0o700)


async def test_the_proof_is_asked_for_on_a_unix_socket_too() -> None:
    async with house(local=True) as home:
        data = REQUEST + b"\x82\xa0" + bytes(4) + bytes(32)
        answer = await exchange(home.listener.local_path, REQUEST)
        rejected = await exchange(home.listener.local_path, data)

        assert TOKEN.reveal().encode() not in answer + rejected
        assert home.ears == []


async def test_a_folder_with_a_long_name_has_sockets_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    async with house(local=True) as home:
        link = await open_link(home.listener.url)

        assert len(home.listener.local_path) > local_socket.LONGEST_PATH
        assert link.peer.carrier == "unix"
        link.close()
        await link.wait_closed()


async def test_where_names_cannot_be_that_long_links_are_tcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.setattr(sys, "platform", "darwin")
    async with house(local=True) as home:
        link = await open_link(home.listener.url)

        assert (home.listener.local_path, link.peer.carrier) == ("", "tcp")
        link.close()
        await link.wait_closed()


async def test_two_addresses_with_one_port_have_sockets_of_their_own() -> None:
    async with house(local=True) as home:
        port = home.listener.port
        async with house(local=True, host="127.0.0.2", port=port, node_name="n2"):
            link = await open_link(f"ws://127.0.0.2:{port}")

            assert (link.peer.name, link.peer.carrier) == ("n2", "unix")
            link.close()
            await link.wait_closed()


def test_the_user_of_a_socket_comes_from_the_system() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)

    with one, other:
        assert local_socket.peer_uid(one) == os.geteuid()


def test_the_user_is_read_where_the_system_has_no_so_peercred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class MacSocket:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert (level, option) == (0, 1)
            return struct.pack("IIh", 0, 501, 1).ljust(size, b"\0")

    monkeypatch.setattr(local_socket, "_SO_PEERCRED", None)
    link: Any = MacSocket()

    assert local_socket.peer_uid(link) == 501


async def test_one_that_hangs_up_at_once_is_refused_and_costs_no_other_socket() -> None:
    async with house() as home, house(local=True) as other:
        hasty = local_socket.bind("127.0.0.1", home.listener.port, backlog=8)
        assert hasty is not None
        acceptor = Acceptor(hasty.listening, lambda link: link.close())
        working = await open_link(other.listener.url)
        for _ in range(20):
            with pytest.raises(DialFailed, match="without an answer"):
                await open_link(home.listener.url)
            gc.collect()
        working.send(numbered(1))

        assert await (await other.ear()).message() == (numbered(1), ())
        acceptor.close()
        hasty.close()
        working.close()
        await working.wait_closed()


# ----------------------------------- what the other end of a lost link cannot have read


@pytest.mark.parametrize("read_before", [0, 3])
async def test_unread_last_messages_are_reported_when_the_link_is_lost(
    read_before: int,
) -> None:
    async with linked(local=True) as pair:
        for number in range(read_before):
            pair.dialled.send(numbered(number))
        await pair.accepted_ear.heard(pair.accepted_ear.messages, read_before)
        pair.accepted.cut()  # it reads no more, as one that is about to be killed
        begin = pair.dialled.written
        pair.dialled.send(numbered(77))
        await asyncio.sleep(0)
        pair.accepted.give_up("killed")
        await pair.dialled_ear.lost()

        assert pair.dialled.received == begin


@pytest.mark.parametrize("local", [True, False], ids=["unix", "tcp"])
async def test_what_is_sent_to_one_that_is_gone_is_known_not_to_be_read(
    local: bool,
) -> None:
    async with linked(local=local) as pair:
        first = pair.dialled.written
        pair.dialled.send(numbered(1))
        await pair.accepted_ear.message()
        begin = pair.dialled.written
        handle = pair.accepted._transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(handle)) as link:
            link.shutdown(socket.SHUT_RDWR)  # and the dialler has not heard of it
        pair.dialled.send(numbered(2))
        pair.dialled.send(numbered(3))
        pair.dialled._outflow.flush()
        await pair.dialled_ear.lost()

        assert first < pair.dialled.received <= begin


@pytest.mark.parametrize("local", [True, False], ids=["unix", "tcp"])
async def test_what_was_read_is_not_taken_for_unread(local: bool) -> None:
    async with linked(local=local) as pair:
        pair.dialled.send(numbered(1))
        await pair.accepted_ear.message()
        pair.accepted.give_up("killed")
        await pair.dialled_ear.lost()

        assert pair.dialled.received >= pair.dialled.written


@pytest.mark.parametrize("local", [True, False], ids=["unix", "tcp"])
async def test_what_was_read_just_before_a_reset_is_not_taken_for_unread(
    local: bool,
) -> None:
    async with linked(local=local) as pair:
        for number in range(50):  # the system delays acknowledgements by now
            pair.dialled.send(numbered(number))
            await pair.accepted_ear.message(number + 1)
            pair.accepted.send(numbered(number))
            await pair.dialled_ear.message(number + 1)
        pair.dialled.send(numbered(50))
        await pair.accepted_ear.message(51)
        read = pair.dialled.written
        pair.accepted.cut()
        pair.dialled.send(numbered(77))
        await asyncio.sleep(0)
        pair.accepted.give_up("killed")
        await pair.dialled_ear.lost()

        assert pair.dialled.received >= read


@pytest.mark.parametrize("local", [True, False], ids=["unix", "tcp"])
async def test_what_waited_to_be_written_when_the_link_was_lost_was_not_read(
    local: bool,
) -> None:
    async with linked(local=local) as pair:
        first = pair.dialled.written
        pair.dialled.send(numbered(1))
        await pair.accepted_ear.message()
        begin = pair.dialled.written
        pair.dialled.send(numbered(2))
        pair.dialled.give_up("lost before the end of this turn")
        await pair.dialled_ear.lost()

        assert first < pair.dialled.received <= begin
