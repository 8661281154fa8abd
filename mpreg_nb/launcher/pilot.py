"""A job of a batch queue: connects to who queued it, and starts a node at its word.

`python -m mpreg_nb.launcher.pilot FILE`; the file says where the starter listens. What
passes over the connection, which is TLS, is what `mpreg-nb host` reads and writes. The
node ends with the connection. At SIGTERM, when the time of the job is over, it ends
what runs and leaves.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mpreg_nb.launcher.host import ENDING, CommandReader, Reporter, serve
from mpreg_nb.node.environment import have_standard_files
from mpreg_nb.transport.tls import dialling
from mpreg_nb.user_files import read_private

CONNECT_S = 10.0
"""In which the starter must answer."""

FLUSHED_S = 2.0
"""In which last reports are sent."""

PIECE_BYTES = 1 << 16


class PilotTicket(msgspec.Struct, frozen=True, kw_only=True):
    """What a job needs to connect to its starter; for its eyes only."""

    address: str
    port: int
    ca: str  # PEM
    key: str
    """Proves that it is the job; it counts once."""


class Bridge:
    """The connection to the starter, as two pipes; it lives on a thread of its own."""

    def __init__(self, ticket: PilotTicket) -> None:
        """Connect.

        Raises:
            OSError: nobody is there, or not the starter.
        """
        self._ticket = ticket
        self.commands, self._commands_in = os.pipe()
        self._reports_out, self.reports = os.pipe()
        self.address = ""
        """The address of this machine on the way to the starter."""

        self._connected = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._connected.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Send what was reported, and disconnect."""
        os.close(self.reports)
        self._thread.join(FLUSHED_S)

    def _run(self) -> None:
        asyncio.run(self._carry())

    async def _carry(self) -> None:
        ticket = self._ticket
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    ticket.address, ticket.port, ssl=dialling(ticket.ca)
                )
            self.address = writer.get_extra_info("sockname")[0]
        except OSError as error:
            self._error = error
            return
        finally:
            self._connected.set()
        writer.write(f"{ticket.key}\n".encode())
        inward = asyncio.ensure_future(self._read(reader))
        loop = asyncio.get_running_loop()
        reports = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reports), os.fdopen(self._reports_out)
        )
        try:
            while piece := await reports.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            return  # the starter is gone; who reads commands hears it too
        finally:
            writer.close()
            await inward

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while piece := await reader.read(PIECE_BYTES):
                os.write(self._commands_in, piece)
        except OSError:
            return
        finally:
            os.close(self._commands_in)


def main(arguments: Sequence[str]) -> int:
    """Run until the starter is gone or the job is over; return the exit code."""
    have_standard_files()
    [file] = arguments
    os.environ.pop("XDG_RUNTIME_DIR", None)  # of the machine that queued it
    try:
        ticket = msgspec.json.decode(read_private(Path(file)), type=PilotTicket)
    except OSError as error:
        sys.stderr.write(
            f"{file} cannot be read here: {error.strerror}. The folder for state must "
            "be shared by the machines: set XDG_STATE_HOME to one that is\n"
        )
        return 1
    for number in ENDING:
        signal.signal(number, lambda number, frame: sys.exit(0))
    try:
        bridge = Bridge(ticket)
    except OSError as error:
        sys.stderr.write(
            f"no connection to {ticket.address} port {ticket.port}, where this job was "
            f"queued: {error}. Either the program there has ended, or that address is "
            "not the one by which this machine reaches it: set MPREG_NB_ADDRESS there\n"
        )
        return 1
    report = Reporter(bridge.reports)
    reason = serve(CommandReader(bridge.commands), report, bridge.address)
    bridge.close()
    sys.stderr.write(f"the node has ended: {reason}\n")
    sys.stderr.flush()
    os._exit(0)  # whatever thread still waits


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
