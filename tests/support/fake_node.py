"""A process that behaves like a node towards the one that started it.

Run as: fake_node.py MANNER OPTIONS, with the options of a node. It has a child in
its process group in place of a worker, whose id it logs.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

from mpreg_nb.node.__main__ import ParentWatch
from mpreg_nb.node.options import NodeOptions, read_options

WORKER = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]


def log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def say_ready(options: NodeOptions, **others: object) -> None:
    said = {
        "ready": True,
        "name": options.settings.name,
        "url": "ws://127.0.0.1:7400",
        "pid": os.getpid(),
        "cluster_id": options.settings.cluster_id or "c" * 32,
    }
    say(json.dumps(said | others))


async def serve(manner: str, options: NodeOptions) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    terms = []

    def on_term() -> None:
        terms.append(1)
        log(f"SIGTERM {len(terms)}")
        if manner == "deaf" or ended.done():
            return
        if manner != "drains" or len(terms) == 2:
            ended.set_result(len(terms) - 1)

    def on_cut(reason: str) -> None:
        log(reason)
        if not ended.done():
            ended.set_result(7)

    def on_int() -> None:
        log("SIGINT")
        if manner != "deaf" and not ended.done():
            ended.set_result(0)

    loop.add_signal_handler(signal.SIGTERM, on_term)
    loop.add_signal_handler(signal.SIGINT, on_int)
    ParentWatch(on_cut, descriptor=options.lifeline, parent=options.parent)
    if manner == "chatty":
        say("welcome to this site\n\xff{\n[]")
    if manner == "impostor":
        say_ready(options, name="somebody else")
    elif manner == "stranger":
        say_ready(options, cluster_id="d" * 32)
    elif manner != "silent":
        say_ready(options)
    if manner == "chatty":
        say("x" * (1 << 20))
        log("said it all")
    return await ended


def main() -> int:
    manner, *arguments = sys.argv[1:]
    options = read_options(arguments, program="stand-in")
    if manner == "fails":
        log("no luck\x1b[31m today")
        return 3
    if manner == "babbles":
        say("x" * (1 << 20))
        time.sleep(60)
    worker = subprocess.Popen(WORKER, stdin=subprocess.DEVNULL)
    log(f"worker {worker.pid}")
    code = asyncio.run(serve(manner, options))
    worker.kill()
    worker.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())
