"""A real kernel, and what it sends for each cell."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

TIMEOUT_S = 60


@dataclass
class Cell:
    """The messages of one execution, in the order in which they arrived."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def stream(self, name: str = "stdout") -> str:
        """All that was written to a stream."""
        return "".join(
            message["content"]["text"]
            for message in self.messages
            if message["msg_type"] == "stream" and message["content"]["name"] == name
        )

    def data(self) -> list[dict[str, str]]:
        """What was displayed, by MIME type."""
        kinds = ("display_data", "execute_result")
        return [m["content"]["data"] for m in self.messages if m["msg_type"] in kinds]

    def error(self) -> tuple[str, str]:
        """The name of the error that ended it, and its traceback without colours."""
        (error,) = (m["content"] for m in self.messages if m["msg_type"] == "error")
        text = "\n".join(error["traceback"])
        return error["ename"], re.sub("\x1b\\[[0-9;]*m", "", text)

    def kinds(self) -> list[str]:
        """The types of the messages, without those of the protocol."""
        return [
            message["msg_type"]
            for message in self.messages
            if message["msg_type"] not in ("status", "execute_input")
        ]


class Kernel:
    """Runs cells, and sorts the messages of the kernel by cell."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client
        self._cells: dict[str, Cell] = {}

    def start(self, source: str) -> Cell:
        """Send a cell and do not wait for it."""
        execute: Any = self._client.execute
        cell = self._cells[execute(source)] = Cell()
        return cell

    def run(self, source: str) -> Cell:
        """Run a cell and wait until the kernel is idle again."""
        cell = self.start(source)
        self.wait(cell)
        return cell

    def set_up(self, source: str) -> None:
        """Run a cell that the others need; raise if it fails."""
        cell = self.run(source)
        if "error" in cell.kinds():
            raise AssertionError(cell.error()[1])

    def run_with_input(self, source: str, answers: list[str]) -> Cell:
        """Run a cell that asks for input, and give `answers` one after the other."""
        execute: Any = self._client.execute
        cell = self._cells[execute(source, allow_stdin=True)] = Cell()
        for answer in answers:
            ask: Any = self._client.get_stdin_msg
            ask(timeout=TIMEOUT_S)
            self._client.input(answer)
        self.wait(cell)
        return cell

    def wait(self, cell: Cell) -> None:
        """Receive messages until `cell` has ended."""
        while not cell.messages or not _idle(cell.messages[-1]):
            self._take()

    def wait_for(self, text: str, cell: Cell) -> None:
        """Receive messages until `cell` has written `text`."""
        while text not in cell.stream():
            self._take()

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Receive messages until a condition is met."""
        while not is_so():
            self._take()

    def complete(self, line: str) -> list[str]:
        """Return what Tab offers at the end of `line`."""
        complete: Any = self._client.complete
        reply = complete(line, reply=True, timeout=TIMEOUT_S)
        matches: list[str] = reply["content"]["matches"]
        return matches

    def interrupt(self) -> None:
        """Press Stop: the kernel gets a SIGINT."""
        self._manager.interrupt_kernel()

    def restart(self, *, now: bool) -> None:
        """Restart the kernel, with SIGKILL if `now`, and wait until it is ready."""
        self._manager.restart_kernel(now=now)
        ready: Any = self._client.wait_for_ready
        ready(timeout=TIMEOUT_S)

    def _take(self) -> None:
        get: Any = self._client.get_iopub_msg
        message = get(timeout=TIMEOUT_S)
        cell = self._cells.get(message["parent_header"].get("msg_id", ""))
        if cell is not None:
            cell.messages.append(message)


def _idle(message: dict[str, Any]) -> bool:
    state: str = message["content"].get("execution_state", "")
    return state == "idle"


@contextmanager
def kernel() -> Iterator[Kernel]:
    """Start a kernel of its own, and end it."""
    start: Any = start_new_kernel
    manager, client = start(kernel_name="python3")
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
