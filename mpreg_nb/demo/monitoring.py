"""Monitoring: what nodes say about themselves, and an alert when one of them dies.

The same job as the tutorial 13_monitoring, which lets Prometheus do the looking.
"""

import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from urllib.error import URLError
from urllib.request import Request, urlopen

import msgspec

from mpreg_nb.cluster.api import function, up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.demo.story import Story
from mpreg_nb.transport.token import load_token

NODES = {"n1": {"cpu"}, "n2": {"cpu"}, "n3": {"cpu"}}
CALLS, BAD = 200, 10
"""One call in so many fails."""

DEAD_FOR_S = 2.0
"""The rule of the alert: a member has been dead for so long."""

TICK_S = 0.25


@function(resources={"cpu"})
def work(number: int) -> int:
    """Fail for some numbers."""
    if number % BAD == 3:
        raise ValueError(f"{number} is not a number that I like")
    return sum(range(number))


class Sighting(msgspec.Struct, frozen=True):
    """What a monitor saw at one moment."""

    at_s: float
    calls: dict[str, float]  # by the URL of each node that answered
    dead: float  # members, in the eyes of the node that sees most


class NodeMonitor:
    """Looks at all nodes now and then, as Prometheus does, and applies a rule."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._token = load_token().issue("viewer")  # it can look and never call
        self.looks: list[Sighting] = []

    def text(self, url: str, path: str = "/metrics") -> str:
        """Return what a node answers."""
        request = Request(  # noqa: S310  # the URL of a node of ours
            url.replace("ws://", "http://").rstrip("/") + path,
            headers={"Authorization": f"Bearer {self._token}"},
        )
        with urlopen(request, timeout=10) as answer:  # noqa: S310
            text: str = answer.read().decode()
        return text

    def look(self) -> None:
        """Note what all nodes say now."""
        calls: dict[str, float] = {}
        dead = [0.0]
        for url in self._cluster.urls:
            try:
                text = self.text(url)
            except (URLError, ConnectionError):  # it is down: that is what we look for
                continue
            calls[url] = total(text, "mpreg_calls_total")
            dead.append(total(text, 'mpreg_members{state="dead"}'))
        self.looks.append(Sighting(time.monotonic(), calls, max(dead)))

    def alert(self) -> bool:
        """Return whether members were dead for as long as the rule says."""
        if not self.looks or not self.looks[-1].dead:
            return False
        since = self.looks[-1].at_s
        for look in reversed(self.looks):
            if not look.dead:
                break
            since = look.at_s
        return self.looks[-1].at_s - since >= DEAD_FOR_S

    def rates(self) -> list[float]:
        """Return the calls a second between each look and the next."""
        return [
            sum(n - before.calls.get(url, n) for url, n in after.calls.items())
            / (after.at_s - before.at_s)
            for before, after in pairwise(self.looks)
        ]


def total(text: str, name: str, label: str = "") -> float:
    """Return the sum of a metric over its labels.

    >>> total('a{f="x"} 2\\na{f="y"} 3\\nb 1', "a"), total('a{f="x"} 2', "a", "y")
    (5.0, 0)
    """
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(name) and label in line
    )


def tell(story: Story) -> None:
    """Run the demo."""
    story.title(
        "Be told when it no longer works",
        "Each node says how it is, in the format of Prometheus. A monitor looks.",
    )
    with up(NODES, fresh=True) as cluster:
        _figures(story, cluster)
        monitor = NodeMonitor(cluster)
        fired_s = _trouble(story, cluster, monitor)
        over_s = _mended(story, cluster, monitor)
        _collected(story, monitor)
    story.end(
        f"A node died. The alert came after {fired_s:.1f} s and ended {over_s:.1f} s "
        "after the repair had begun; no call was lost.",
        "notebooks/13_monitoring.ipynb   the same by Prometheus, with its rules",
        "mpreg-nb demo cluster           other ways to lose a node",
    )


def _figures(story: Story, cluster: Cluster) -> None:
    story.act(
        "What nodes say",
        f"{CALLS} calls, of which one in {BAD} fails. GET /metrics of each node, with\n"
        "   a token that can look and never call: mpreg-nb token issue --read-only",
    )
    outcomes = [work.submit(number) for number in range(CALLS)]
    failed = sum(future.exception() is not None for future in outcomes)
    monitor = NodeMonitor(cluster)
    texts = [monitor.text(url) for url in cluster.urls]
    told = texts[0].splitlines()
    lines = [line[7:] for line in told if line.startswith("# HELP mpreg_")]
    story.show("\n".join(f"   {line}" for line in lines[:5]) + "\n   ...")
    calls, errors = (
        sum(total(text, f"mpreg_{name}_total", '"work"') for text in texts)
        for name in ("calls", "errors")
    )
    story.check(
        calls == CALLS and errors == failed == CALLS // BAD,
        f"{calls:.0f} calls and {errors:.0f} errors, summed over {len(texts)} nodes",
    )
    health = monitor.text(cluster.urls[0], "/healthz").strip()
    story.saw("/healthz needs no token", {"says": health})
    if promtool := shutil.which("promtool"):
        found = subprocess.run(  # noqa: S603
            [promtool, "check", "metrics"],
            input=texts[0],
            text=True,
            capture_output=True,
            check=False,
        )
        story.check(found.returncode == 0, "promtool finds nothing wrong with it")


def _trouble(story: Story, cluster: Cluster, monitor: NodeMonitor) -> float:
    story.act(
        "A node dies",
        f"A monitor looks every {TICK_S} s while calls go on. Its rule: in the eyes\n"
        f"   of a node that lives, another has been dead for {DEAD_FOR_S:.0f} s.",
    )
    _until(cluster, monitor, lambda: len(monitor.looks) > 6)
    story.check(not monitor.alert(), "no alert while all is well")
    cluster.kill("n3")
    with story.timed() as seconds:
        _until(cluster, monitor, lambda: monitor.looks[-1].dead > 0)
        noticed = seconds()
        _until(cluster, monitor, monitor.alert)
    story.saw(
        "the alert fires: NodeDead",
        {"the nodes knew after": f"{noticed:.1f} s", "it fired": f"{seconds():.1f} s"},
    )
    return seconds()


def _mended(story: Story, cluster: Cluster, monitor: NodeMonitor) -> float:
    story.act(
        "It is mended",
        "The line that started the cluster starts what is missing.",
    )
    with story.timed() as seconds:
        up(NODES)
        _until(cluster, monitor, lambda: not monitor.alert())
    story.saw("the alert is over", {"after": f"{seconds():.1f} s"})
    _until(cluster, monitor, lambda: len(monitor.looks[-1].calls) == len(NODES))
    return seconds()


def _collected(story: Story, monitor: NodeMonitor) -> None:
    rates = monitor.rates()
    story.act("What was collected", "Left to right, from the first look to the last.")
    story.show(
        f"   calls a second  {_bars(rates)}  up to {max(rates):,.0f}\n"
        f"   dead nodes      {_bars([look.dead for look in monitor.looks[1:]])}"
    )


def _bars(values: list[float]) -> str:
    """Return a bar of eight heights for each value; a point for none.

    >>> _bars([0, 1, 4, 8])
    '·▁▄█'
    """
    top = max(values) or 1.0
    return "".join("·▁▂▃▄▅▆▇█"[round(value / top * 8)] for value in values)


def _until(cluster: Cluster, monitor: NodeMonitor, met: Callable[[], bool]) -> None:
    """Work and look by turns until a condition is met.

    Raises:
        TimeoutError: it is not met for a minute.
    """
    end = time.monotonic() + 60
    while True:
        tick = time.monotonic() + TICK_S
        while time.monotonic() < tick:
            cluster.on("cpu", wait=10).map(abs, range(40))
        monitor.look()
        if met():
            return
        if time.monotonic() > end:
            raise TimeoutError("the monitor did not see in a minute what it waits for")
