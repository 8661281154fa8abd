"""Nodes are lost while a workflow runs: by a kill, a cut network and a pause.

The same job as the tutorial 03_watching.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from mpreg_nb.cluster.api import function, up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.run import Run
from mpreg_nb.demo.story import Story
from mpreg_nb.workflows.builder import Flow

NODES = {f"lab-{number}": {"cpu"} for number in range(1, 5)}
END = 600_000
PRIMES = 49_098
"""So many primes are below END, as every table of them says."""

PARTS = 40
LOST_S = 30.0
"""How long a node hangs or is cut off: longer than the rest of the demo takes."""


@function(resources={"cpu"}, idempotent=True)
def count_primes(start: int, end: int) -> int:
    """Count the primes in a range, by division."""
    divisors = range(3, math.isqrt(end) + 1, 2)
    found = 0
    for number in range(start, end):
        if number < 3 or number % 2 == 0:
            found += number == 2
            continue
        for divisor in divisors:
            if divisor * divisor > number:
                found += 1
                break
            if number % divisor == 0:
                break
        else:
            found += 1
    return found


@function(resources={"cpu"}, idempotent=True)
def total(*counts: int) -> int:
    """Add up the parts."""
    return sum(counts)


class Trouble(msgspec.Struct, frozen=True):
    """One way to lose a node."""

    title: str
    about: str
    node: str
    begin: Callable[[], None]


def build(cluster: Cluster) -> "Flow[Run, Any]":
    """Return a workflow of many steps, each of which any node can run."""
    flow = cluster.workflow("primes")
    width = END // PARTS
    counts = [
        flow.step(f"part-{n:02}", count_primes, n * width, (n + 1) * width)
        for n in range(PARTS)
    ]
    flow.step("total", total, *counts)
    return flow


def tell(story: Story) -> None:
    """Run the demo."""
    story.title(
        "Nodes are lost, work is not",
        "Four nodes count primes. One is killed, one is cut off, one hangs.",
    )
    with up(NODES, fresh=True) as cluster:
        flow = build(cluster)
        usual_s = _undisturbed(story, flow)
        more_s = [
            _disturbed(story, cluster, flow, trouble) - usual_s
            for trouble in _troubles(cluster)
        ]
        story.act("Afterwards", "Who is there, and what the nodes saw of each other.")
        story.show(cluster.nodes()[["node", "state"]])
        story.show(_events(cluster))
    costs = ", ".join(f"{max(0.0, seconds):.1f} s" for seconds in more_s)
    story.end(
        f"Three of four nodes were lost and all answers are right. It cost {costs}.",
        "notebooks/03_watching.ipynb   the same, watched in a live panel",
        "mpreg-nb demo orders          steps that must not run twice, and their undo",
    )


def _troubles(cluster: Cluster) -> list[Trouble]:
    return [
        Trouble(
            "A node is killed",
            "lab-4 ends as a crash would end it. What ran there runs elsewhere.",
            "lab-4",
            lambda: cluster.kill("lab-4"),
        ),
        Trouble(
            "The network is cut",
            "Nothing between lab-3 and the others arrives, and no connection reports\n"
            "   an error: the others notice only that answers are missing.",
            "lab-3",
            lambda: cluster.partition("lab-3", ["lab-1", "lab-2"], LOST_S),
        ),
        Trouble(
            "A node hangs",
            "lab-2 is stopped in the middle of its work, with its connections open.",
            "lab-2",
            lambda: cluster.pause("lab-2", LOST_S),
        ),
    ]


def _undisturbed(story: Story, flow: "Flow[Run, Any]") -> float:
    story.act(
        "Four nodes at work",
        f"{PARTS} steps count the primes below {END:,}; the last one adds them up.",
    )
    run = flow.run()
    _check_answer(story, run)
    shares = Counter(step.node for step in run.steps)
    figures = {node: f"{shares[node]} steps" for node in NODES}
    seconds = run.duration_ms / 1000
    story.saw(f"{seconds:.1f} s without trouble; who did how much:", figures)
    return seconds


def _disturbed(
    story: Story, cluster: Cluster, flow: "Flow[Run, Any]", trouble: Trouble
) -> float:
    story.act(trouble.title, trouble.about)
    run = flow.start()
    lose(story, run, trouble.node, trouble.begin)
    with story.timed() as lost_for_s:
        cluster.wait_for(trouble.node, state="dead", timeout=30)
    run.wait(timeout=60)
    _check_answer(story, run)
    again = sum(step.attempts > 1 for step in run.steps)
    ends = Counter(step.node for step in run.steps)
    story.saw(
        "what was on its way to the lost node went to the others",
        {
            "the others knew after": f"{lost_for_s():.1f} s",
            "the workflow took": f"{run.duration_ms / 1000:.1f} s",
            "steps begun again": again,
            "steps by node": ", ".join(f"{n} {ends[n]}" for n in NODES if ends[n]),
        },
    )
    return run.duration_ms / 1000


def lose(story: Story, run: Run, node: str, begin: Callable[[], None]) -> None:
    """Lose a node by `begin` once it has work of a run that is well under way."""
    while not _works(run, node) and not run.has_ended(0.005):
        continue
    done = sum(step.status == "done" for step in run.steps)
    begin()
    story.saw(f"{node} is lost after {done} of {len(run.steps)} steps")


def _works(run: Run, node: str) -> bool:
    """Return whether a node has work of a run of which a tenth is done."""
    done = sum(step.status == "done" for step in run.steps)
    return done >= len(run.steps) // 10 and any(
        step.status == "running" and step.node == node for step in run.steps
    )


def _check_answer(story: Story, run: Run) -> None:
    story.check(run["total"] == PRIMES, f"there are {PRIMES:,} primes: that is right")


def _events(cluster: Cluster) -> str:
    events = cluster.events()
    seen = events[events.event.isin(["suspect", "dead"])]
    began = seen.time.min()
    lines = [
        f"   {(row.time - began).total_seconds():5.1f} s  {row.node}  {row.event}"
        for row in seen.itertuples()
    ]
    return "\n".join(lines)
