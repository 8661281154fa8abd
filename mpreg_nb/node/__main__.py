"""Run one node until SIGTERM comes or the process that started it is gone.

The end of the parent is noticed in two ways, since each can fail alone. The system
closes a pipe that the parent holds open, unless a child that the parent forked holds
it too. And an orphan gets another parent, which a look once a second shows.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import TypeAlias

from mpreg_nb.errors import MpregError
from mpreg_nb.node.environment import have_standard_files
from mpreg_nb.node.node import Node
from mpreg_nb.node.options import (
    NodeOptions,
    dialled_at,
    read_options,
    tls_files,
)
from mpreg_nb.shared_memory.segments import MEMORY, bytes_of
from mpreg_nb.transport.tls import TlsFiles, load_ca, read_tls
from mpreg_nb.transport.token import Token, load_token, read_token

LOOK_S = 1.0
"""Seconds between two looks at who the parent is; bounds how late it is seen."""

CHUNK_BYTES = 4096


class ParentWatch:
    """Calls `on_cut` once, with the reason, when the parent is gone.

    Lives on the event loop that runs when it is made; `close` ends it without a
    call. Without `descriptor` and without `parent` it never calls.
    """

    def __init__(
        self,
        on_cut: Callable[[str], None],
        *,
        descriptor: int | None = None,
        parent: int | None = None,
        look_s: float = LOOK_S,
        parent_now: Callable[[], int] = os.getppid,
    ) -> None:
        """Begin to watch.

        Raises:
            OSError: `descriptor` is not open.
            ValueError: it is a file or terminal, which nobody closes.
        """
        self._on_cut = on_cut
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._parent = parent
        self._look_s = look_s
        self._parent_now = parent_now
        self._timer: asyncio.Handle | None = None
        self._closed = False
        if descriptor is not None:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
                raise ValueError(
                    f"descriptor {descriptor} is not a pipe, so it cannot be a "
                    "lifeline. Start the node without --lifeline to run it on "
                    "its own"
                )
            self._loop.add_reader(descriptor, self._read, descriptor)
        if parent is not None:
            # Not at once: the caller has not got this object yet.
            self._timer = self._loop.call_soon(self._look)

    def close(self) -> None:
        """Stop watching; may be called again."""
        if self._closed:
            return
        self._closed = True
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()

    def _read(self, descriptor: int) -> None:
        try:
            said = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:  # a socket pair whose other end went with a reset
            said = b""
        if not said:
            self._cut("its lifeline was closed")

    def _look(self) -> None:
        if self._parent_now() != self._parent:
            self._cut("the process that started it has ended")
        else:
            self._timer = self._loop.call_later(self._look_s, self._look)

    def _cut(self, reason: str) -> None:
        self.close()
        self._on_cut(reason)


LOG = logging.getLogger("mpreg_nb.node")

ORPHANED_S = 4.0
"""From the end of the parent to the end of its node, at the latest."""

GARBAGE = (10_000, 20, 20)
"""New objects before the youngest are looked through; see `gc.set_threshold`."""


Beside: TypeAlias = Callable[[Node, Token], AbstractAsyncContextManager[object]]
"""What runs in the process of a node as long as the node: other nodes of a gateway."""


def _nothing(node: Node, token: Token) -> AbstractAsyncContextManager[object]:
    return nullcontext()


async def serve(
    options: NodeOptions,
    *,
    first_cluster_id: str = "",
    on_ready: Callable[[str, int], object] | None = None,
    beside: Beside = _nothing,
) -> int:
    """Start the node, say that it is ready, and return when it has stopped.

    first_cluster_id: id of its cluster until it has joined others; "": a random one.
    on_ready: hears the id of its cluster and its port, once it has joined.
    beside: entered when the node has started, before it says that it is ready, and
        left when the node has stopped.
    """
    if options.token_file:
        token = read_token(Path(options.token_file))
    else:
        token = load_token()
    os.environ.pop("MPREG_NB_TOKEN", None)  # children must not have it
    loop = asyncio.get_running_loop()
    listening = None
    if options.listening is not None:
        listening = socket.socket(fileno=options.listening)
        listening.set_inheritable(False)
    files, tls = tls_files(options), None
    if files is not None:
        tls = read_tls(files, node=options.settings.name, hosts=dialled_at(options))
    node = Node(
        options.settings,
        token,
        listening=listening,
        tls=tls,
        ca=load_ca(options.ca or None) if tls is None else "",
        first_cluster_id=first_cluster_id,
        is_process=True,
    )
    asked = 0

    def ask_to_stop(hurry: bool = False) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            node.spawn(node.stop(0.0 if hurry else None))
        elif asked == 2:
            node.hurry()
        else:
            os._exit(1)  # asked three times: whoever asks does not want to wait

    loop.add_signal_handler(signal.SIGTERM, ask_to_stop)
    loop.add_signal_handler(signal.SIGINT, ask_to_stop, True)

    def parent_gone(reason: str) -> None:
        ask_to_stop(hurry=True)
        # Whatever the event loop is stuck in, nobody is there to wait for it.
        last = threading.Timer(ORPHANED_S, os._exit, (1,))
        last.daemon = True
        last.start()

    lifeline = ParentWatch(
        parent_gone,
        descriptor=options.lifeline,
        parent=options.parent,
    )
    try:
        url = await node.start()
        try:
            async with beside(node, token):
                if on_ready is not None:
                    on_ready(node.cluster_id, node.port)
                _report_ready(options, node, url, files)
                _tend_garbage()
                await node.ended.wait()
        finally:
            await node.stop(drain_s=0)  # what runs beside it may have failed
        if _is_by_hand(options):
            sys.stderr.write(f"node {node.name} has left the cluster and ended\n")
    finally:
        lifeline.close()
    return 0


def _is_by_hand(options: NodeOptions) -> bool:
    # `up` gives its nodes a socket, and those that it does not keep a parent.
    given = options.listening, options.lifeline, options.parent
    return given == (None, None, None)


def _report_ready(
    options: NodeOptions, node: Node, url: str, files: TlsFiles | None
) -> None:
    """Write the ready line for the program that started the node, or for a person."""
    ready = {
        "ready": True,
        "name": node.name,
        "url": url,
        "pid": os.getpid(),
        "cluster_id": node.cluster_id,
    }
    LOG.info("%s: started %s", node.name, url)
    by_hand = _is_by_hand(options)
    if not (by_hand and sys.stdout.isatty()):
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
    if by_hand:
        ca = files.vouching if files is not None else ""
        sys.stderr.write(how_to_join(node.name, url, ca))
    # Whoever reads the line may be gone later; what is printed then is log.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def how_to_join(name: str, url: str, ca: str = "") -> str:
    """Return the lines that tell whoever started a node by hand how to go on.

    ca: the file that its certificate is checked with; "": it has none.
    """
    option, argument, node = "", "", "--name NAME"
    if ca:
        option, argument = f" --ca {ca}", f", ca={ca!r}"
        node += " --host HOST --tls-cert NAME.pem --tls-key NAME.key"
    return (
        f"node {name} is running at {url}. To join it:\n"
        f"  from a shell      mpreg-nb node {node} --join {url}{option}\n"
        f"  from Python       mpreg_nb.connect({url!r}{argument})\n"
        f"  from a notebook   %mpreg connect {url}{option}\n"
        + ("Elsewhere that needs a copy of the CA and of the token.\n" if ca else "")
        + "Ctrl-C ends it.\n"
    )


def _tend_garbage() -> None:
    """Look for garbage in what calls make, not in all that a node consists of.

    The collector goes over every object that is not frozen once in so many new
    ones. Runs make thousands and the node remembers many: a fifth of its time went
    into looking again at what was imported.
    """
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def main(arguments: list[str] | None = None) -> int:
    """Run a node as the command line says; return the exit code."""
    return run(read_options(arguments))


def run(
    options: NodeOptions,
    *,
    first_cluster_id: str = "",
    on_ready: Callable[[str, int], object] | None = None,
    beside: Beside = _nothing,
) -> int:
    """Run a node until it has stopped; return the exit code.

    The arguments are those of `serve`.
    """
    have_standard_files()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("mpreg_nb").setLevel(logging.INFO)
    MEMORY.limit_bytes = bytes_of(options.settings.shared_memory_mb)
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        runner = asyncio.run
    else:
        runner = uvloop.run
    try:
        return runner(
            serve(
                options,
                first_cluster_id=first_cluster_id,
                on_ready=on_ready,
                beside=beside,
            )
        )
    except (MpregError, OSError) as error:
        sys.stderr.write(f"mpreg-nb node {options.settings.name}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
