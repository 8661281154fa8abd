"""Run one node until its parent is gone or SIGTERM comes."""

import asyncio
import json
import os
import signal
import socket
import sys

from mpreg_nb.errors import MpregError
from mpreg_nb.node.lifeline import Lifeline
from mpreg_nb.node.node import Node
from mpreg_nb.node.options import Options, read_options
from mpreg_nb.transport.token import load_token


async def serve(options: Options) -> int:
    """Start the node, say that it is ready, and return when it has stopped."""
    if options.token_file:
        os.environ["MPREG_NB_TOKEN_FILE"] = options.token_file
    token = load_token()
    os.environ.pop("MPREG_NB_TOKEN", None)  # children must not have it
    loop = asyncio.get_running_loop()
    listening = None
    if options.listening is not None:
        listening = socket.socket(fileno=options.listening)
    node = Node(options.settings, token, listening=listening)
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

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    lifeline = Lifeline(
        lambda reason: ask_to_stop(hurry=True),
        descriptor=options.lifeline,
        parent=options.parent,
    )
    try:
        url = await node.start()
        ready = {
            "ready": True,
            "name": node.name,
            "url": url,
            "pid": os.getpid(),
            "cluster_id": node.cluster_id,
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await node.ended.wait()
    finally:
        lifeline.close()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a node as the command line says; return the exit code."""
    return run(read_options(arguments))


def run(options: Options) -> int:
    """Run a node until it has stopped; return the exit code."""
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        runner = asyncio.run
    else:
        runner = uvloop.run
    try:
        return runner(serve(options))
    except (MpregError, OSError) as error:
        sys.stderr.write(f"mpreg-nb node {options.settings.name}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
