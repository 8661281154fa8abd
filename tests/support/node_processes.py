"""Fake nodes, started as nodes are."""

import socket
import sys
import time
from pathlib import Path
from typing import Self

from mpreg_nb.launcher.launcher import end_now
from mpreg_nb.launcher.pid import ProcessId, await_end, stamp
from mpreg_nb.launcher.process import NodeProcess
from mpreg_nb.node.options import NodeOptions
from mpreg_nb.settings import NodeSettings

FAKE_NODE = Path(__file__).with_name("fake_node.py")
SOON_S = 60.0


class Start:
    """Starts fake nodes that behave in the given manner, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[NodeProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        end_now(self.nodes)

    def __call__(
        self,
        manner: str = "good",
        name: str = "n1",
        *,
        cluster_id: str = "",
        token: str = "",
        keep: bool = False,
        listening: socket.socket | None = None,
    ) -> NodeProcess:
        node = NodeProcess.start(
            NodeOptions(settings=NodeSettings(name=name, cluster_id=cluster_id)),
            log=self.folder / f"{name}.log",
            token=token,
            keep=keep,
            listening=listening,
            command=(sys.executable, "-P", str(FAKE_NODE), manner),
        )
        self.nodes.append(node)
        return node


def await_line(node: NodeProcess, beginning: str) -> str:
    deadline = time.monotonic() + SOON_S
    while True:
        for line in node.log():
            if line.startswith(beginning):
                return line
        assert time.monotonic() < deadline, node.log()
        time.sleep(0.01)


def worker_of(node: NodeProcess) -> ProcessId:
    return stamp(int(await_line(node, "worker ").split()[1]))


def has_ended(process: ProcessId) -> bool:
    return await_end([process], timeout=60)
