"""A process that starts fake nodes as a kernel would, then waits.

Run as: fake_kernel.py FOLDER [keep] [fork]; prints the ids of its nodes, then of what
it forked, and, as its last word, how the fork fared with the nodes.
"""

import os
import sys
import time
from pathlib import Path

from mpreg_nb.launcher.launcher import wait_all_ready
from mpreg_nb.launcher.process import NodeProcess
from mpreg_nb.node.options import NodeOptions
from mpreg_nb.settings import NodeSettings

FAKE_NODE = Path(__file__).with_name("fake_node.py")


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    folder, *words = sys.argv[1:]
    nodes = [
        NodeProcess.start(
            NodeOptions(settings=NodeSettings(name=name)),
            log=Path(folder, f"{name}.log"),
            keep="keep" in words,
            command=(sys.executable, "-P", str(FAKE_NODE), "good"),
        )
        for name in ("n1", "n2")
    ]
    wait_all_ready(nodes)
    say(*(node.pid for node in nodes))
    if "fork" in words and os.fork() == 0:
        try:
            nodes[0].kill()
        except RuntimeError as error:
            say(os.getpid(), error)
    time.sleep(300)


if __name__ == "__main__":
    main()
