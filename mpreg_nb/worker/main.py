"""From the start of a worker process to its end."""

import importlib
import os
import socket
import sys
from collections.abc import Callable

from mpreg_nb.call_context import Home, set_home
from mpreg_nb.output.capture import OutputCapture
from mpreg_nb.output.display import install
from mpreg_nb.protocol.worker import Setup, SharedStatus, WorkerReady, frame
from mpreg_nb.shared_memory.exchange import DescriptorChannel
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.worker.channel import AnswerSender
from mpreg_nb.worker.cleanup import Folder, Folders, StateRestorer
from mpreg_nb.worker.door import DirectReceiver
from mpreg_nb.worker.execution import Answers
from mpreg_nb.worker.lifetime import die_with, essential, watch
from mpreg_nb.worker.sequential import SequentialRunner
from mpreg_nb.working_folder import hide


def main(channel: int, cancels: int, shared: int, beside: int, parent: int) -> None:
    """Serve the node at the other end of `channel` until it is gone."""
    die_with(parent)
    stream = socket.socket(fileno=channel)
    for inherited in (channel, cancels, shared, beside):
        os.set_inheritable(inherited, False)
    os.set_blocking(cancels, False)
    watch(channel)
    inbox = DirectReceiver(stream, cancels)
    setup = inbox.first()
    if not isinstance(setup, Setup):
        raise TypeError(f"a worker starts with Setup, not {setup!r}")
    outbox = AnswerSender(stream)
    descriptors = socket.socket(fileno=beside)
    MEMORY.limit_bytes = setup.shared_memory_bytes
    if setup.shared_memory_bytes:
        inbox.memory = outbox.share(MEMORY, DescriptorChannel(descriptors))
    sys.argv = [""]  # nothing here is meant for user code
    # By name: the cluster of callers is a room above this one.
    callers = importlib.import_module("mpreg_nb.cluster.in_worker")
    callers.set_up()
    if setup.home_url:
        set_home(Home(setup.home_url, setup.home_token, setup.home_ca), callers.connect)
    page = SharedStatus(shared)
    os.close(shared)
    inbox.serve(page, outbox)
    capture = OutputCapture(outbox, page)
    capture.install()
    install(capture, setup.max_payload_bytes)
    answers = Answers(setup.max_payload_bytes, inbox.memory)
    os.chdir(setup.scratch)
    hide(os.getcwdb())
    restorer = StateRestorer(capture, keeps=setup.keeps)
    run: Callable[[], None]
    if setup.slots == 1:
        folder = Folder(setup.scratch)
        run = SequentialRunner(
            inbox, outbox, page, capture, answers, restorer, folder
        ).run
    else:
        from mpreg_nb.worker.concurrent import (
            ConcurrentRunner,  # brings asyncio with it
        )

        slots = setup.slots
        folders = Folders(setup.scratch)
        run = ConcurrentRunner(
            slots, inbox, outbox, page, capture, answers, restorer, folders
        ).run
    outbox.send([frame(WorkerReady(pid=os.getpid()))])
    essential(run)
