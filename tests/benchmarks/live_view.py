"""What a live panel costs: the kernel's process and each node, in percent of a core.

Run: python tests/benchmarks/live_view.py [NODES] [SECONDS]

A real kernel with a panel of all views, and a front end that only counts what it is
sent. Each figure is of an idle cluster, and of one with light calls.
"""

import os
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
from jupyter_client.manager import start_new_kernel

import mpreg_nb as mp

CALLS_PER_S = 20
SETTLING_S = 4.0
TIMEOUT_S = 120

SETUP = f"""import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import live_view
import mpreg_nb as mp
cluster = mp.up({{count}}, workers=1, timeout={TIMEOUT_S})
live_view.settle()
"""


def settle() -> None:
    """Let what starting leaves behind come to its end."""
    time.sleep(SETTLING_S)


def measure(title: str, cluster: mp.Cluster, seconds: float, *, call: bool) -> None:
    """Print what the next seconds cost, with calls or without. In the kernel."""
    nodes = [psutil.Process(pid) for pid in mp.ps().pid if psutil.pid_exists(pid)]
    before = [node.cpu_times() for node in nodes]
    began, used = time.monotonic(), time.process_time()
    calls = 0
    while (passed := time.monotonic() - began) < seconds:
        if call:
            cluster.call("echo", calls)
            calls += 1
        time.sleep(max(0.0, calls / CALLS_PER_S - passed) if call else 0.5)
    passed = time.monotonic() - began
    kernel = 100 * (time.process_time() - used) / passed
    each = [
        100 * (after.user + after.system - at.user - at.system) / passed
        for at, after in zip(before, (node.cpu_times() for node in nodes), strict=True)
    ]
    said = f"each of {len(each)} nodes {mean(each):.2f} % (most {max(each):.2f} %)"
    print(f"{title:<32} kernel {kernel:5.2f} %   {said}")


class Front:
    """A front end that counts what a widget is sent."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.messages = self.sent_bytes = 0

    def run(self, source: str) -> None:
        """Run a cell, print what it prints, and count meanwhile."""
        self.messages = self.sent_bytes = 0
        request = self._client.execute(source)
        while True:
            message = self._client.get_iopub_msg(timeout=TIMEOUT_S)
            content = message["content"]
            if message["msg_type"] in ("comm_msg", "update_display_data"):
                self.messages += message["msg_type"] == "comm_msg"
                self.sent_bytes += len(str(content["data"]))
                self.sent_bytes += sum(map(len, message["buffers"]))
            if message["msg_type"] == "comm_open" and "views" in str(content["data"]):
                self._say_ready(content["comm_id"])
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "stream":
                print(content["text"], end="", flush=True)
            if message["msg_type"] == "error":
                sys.exit("\n".join(content["traceback"]))
            if content.get("execution_state") == "idle":
                return

    def _say_ready(self, comm_id: str) -> None:
        """Say what the script of a panel says when it shows the panel."""
        data = {"method": "custom", "content": {"do": "ready"}}
        said = self._client.session.msg("comm_msg", {"comm_id": comm_id, "data": data})
        self._client.shell_channel.send(said)


def main(count: int = 20, seconds: int = 10) -> None:
    """Measure without and with a panel."""
    start: Any = start_new_kernel
    manager, client = start(kernel_name="python3")
    front = Front(client)
    light = f"{CALLS_PER_S} calls a second"
    try:
        front.run(SETUP.format(count=count))
        for panel in ("no panel", "panel"):
            if panel == "panel":
                front.run("cluster.watch()")
                front.run("live_view.settle()")
            for name, call in (("idle", False), (light, True)):
                title = f"{name}, {panel}"
                front.run(
                    f"live_view.measure({title!r}, cluster, {seconds}, call={call})"
                )
                if front.messages:
                    print(
                        f"    {front.messages / seconds:.1f} updates and "
                        f"{front.sent_bytes / seconds / 1e3:.1f} kB a second"
                    )
        front.run("cluster.down()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


if __name__ == "__main__":
    os.environ["MPREG_NB_PLAIN"] = "0"
    main(*(int(argument) for argument in sys.argv[1:3]))
