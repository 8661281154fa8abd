"""The guided tour: five things that a cluster does for a person, on measured data.

The same job as the tutorial 01_quickstart.
"""

import math
import random
import statistics
import textwrap
import time
from typing import Any

from mpreg_nb.cluster.api import up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.run import Run
from mpreg_nb.demo import climate
from mpreg_nb.demo.catalog import listing
from mpreg_nb.demo.cluster import lose
from mpreg_nb.demo.datasets import require
from mpreg_nb.demo.story import Story
from mpreg_nb.errors import NoRoute
from mpreg_nb.workflows.builder import Flow

NODES = {
    "archive": {"raw-data"},
    "lab-1": {"cpu"},
    "lab-2": {"cpu", "statistics"},
}
NEEDS = {
    "ingest": "raw-data",
    "validate": "cpu",
    "trend": "statistics",
    "season": "cpu",
    "noise": "cpu",
    "report": "cpu",
}
"""Step -> the resource that it asks for."""

CALLS, READING_S = 60, 0.02
DRAWS = 24


def instrument_at(number: int) -> int:
    """Read an instrument: that takes its time, whatever the processor does."""
    time.sleep(READING_S)
    return number


def faster(weeks: list[climate.Week], seed: int) -> float:
    """Return how much faster it rose in the 1990s, had other weeks been measured.

    Weeks are drawn anew from those that were measured, as a *bootstrap* does it.
    """
    time.sleep(0.1)  # as a larger model would take
    chance = random.Random(seed)  # noqa: S311  # no secret
    slopes = climate.trend(chance.choices(weeks, k=len(weeks)))
    return slopes["1990s"] / slopes["1960s"]


def build(cluster: Cluster) -> "Flow[Run, Any]":
    """Return ingest → validate → three analyses at the same time → report."""
    flow = cluster.workflow("mauna-loa")
    raw = flow.step("ingest", climate.ingest, "co2")
    clean = flow.step("validate", climate.validate, raw)
    slopes = flow.step("trend", climate.trend, clean["weeks"])
    months = flow.step("season", climate.season, clean["weeks"])
    weekly = flow.step("noise", climate.noise, clean["weeks"])
    last = flow.step("report", climate.report, clean, slopes, months, weekly)
    for step in (raw, clean, slopes, months, weekly, last):
        step.on(NEEDS[step.name])
    return flow


def tell(story: Story) -> None:
    """Run the tour."""
    require("statsmodels")
    story.title(
        "A question for a small cluster",
        "How much faster does carbon dioxide rise than it did in the 1960s? It was\n"
        "measured on Mauna Loa every week since 1958. Nodes on this machine find out.",
    )
    with up(NODES, fresh=True) as cluster:
        _cluster(story, cluster)
        flow = build(cluster)
        run = _dependencies(story, flow)
        _routing(story, cluster, flow, run)
        _concurrency(story, cluster)
        answer = _loss(story, cluster)
    story.end(
        answer,
        "make lab                  the tutorials in JupyterLab; this job is the first",
        "mpreg-nb bench            how fast this machine is",
        *listing().splitlines()[1:],
    )


def _cluster(story: Story, cluster: Cluster) -> None:
    story.act(
        "Three nodes find each other",
        "Nothing is configured. Each node has resources, which are only names: they\n"
        "   say what it is good for.",
    )
    story.show(cluster.nodes()[["node", "state", "resources"]])
    alive = sum(cluster.nodes().state == "alive")
    story.check(alive == len(NODES), f"{alive} nodes are processes of their own")


def _dependencies(story: Story, flow: "Flow[Run, Any]") -> Run:
    story.act(
        "A workflow finds its order",
        "Six functions, some of which need results of others. Nobody says when to\n"
        "   run what: a step starts as soon as its arguments are there.",
    )
    story.show(flow)
    run = flow.run()
    story.show(run["report"])
    began = {step.name: step.started_ms or 0.0 for step in run.steps}
    after = [began[name] for name in ("trend", "season", "noise")]
    story.check(
        began["ingest"]
        < began["validate"]
        < min(after)
        <= max(after)
        < began["report"],
        "each step ran after those that it needs",
    )
    story.saw(
        "the three analyses were sent as soon as their data were there",
        {
            "sent within": f"{max(after) - min(after):.0f} ms",
            "the first run, for which workers load the code": _ms(run),
            "the next run": _ms(flow.run()),
        },
    )
    return run


def _routing(story: Story, cluster: Cluster, flow: "Flow[Run, Any]", run: Run) -> None:
    story.act(
        "Resources say where",
        "A step names what it needs, never an address. The plan says who has it.",
    )
    story.show(flow.plan()[["step", "resources", "candidates", "chosen"]])
    fits = all(NEEDS[step.name] in NODES[step.node] for step in run.steps)
    story.check(fits, "each step ran on a node that holds what it needs")
    try:
        cluster.on("gpu").call("echo", "hello")
    except NoRoute as error:
        story.saw("what nobody holds is an error, at once:")
        story.show(textwrap.indent(textwrap.fill(str(error), 73), "       "))
    waiting = cluster.on("gpu", wait=30).submit("echo", "hello")
    with story.timed() as seconds:
        cluster.add("lab-3", {"cpu", "gpu"})
        story.check(waiting.result() == "hello", "a call can wait for a node that fits")
    story.saw("lab-3 started, and ran it", {"after": f"{seconds():.1f} s"})


def _concurrency(story: Story, cluster: Cluster) -> None:
    story.act(
        "Many calls at once",
        f"What a call costs. Then {CALLS} calls of {READING_S * 1000:.0f} ms each, one "
        "after the other\n   and all at once, over one client.",
    )
    for number in range(500):
        cluster.call("echo", number)
    latency = cluster.latency().set_index("function").loc["echo"]
    instrument = cluster.register(instrument_at, resources={"cpu"})
    with story.timed() as one_by_one_s:
        expected = [instrument.call(number) for number in range(CALLS)]
    with story.timed() as at_once_s:
        answers = instrument.map(range(CALLS))
    story.check(answers == expected, "each result is in its place")
    story.saw(
        "three nodes hold what it needs, and share it",
        {
            "a call that does nothing": f"{latency.p50_ms:.2f} ms (median), "
            f"{latency.p99_ms:.2f} ms (p99)",
            "one after the other": f"{CALLS / one_by_one_s():.0f} calls a second",
            "all at once": f"{CALLS / at_once_s():.0f} calls a second",
        },
    )


def _loss(story: Story, cluster: Cluster) -> str:
    story.act(
        "A node is killed in the middle",
        f"How certain is the answer? {DRAWS} steps draw other weeks and compute it\n"
        "   again. One of their nodes ends meanwhile, as in a crash.",
    )
    draw = cluster.register(faster, resources={"cpu"}, idempotent=True)
    flow = cluster.workflow("how certain")
    raw = flow.step("ingest", climate.ingest, "co2").on("raw-data")
    clean = flow.step("validate", climate.validate, raw).on(node="lab-2")
    names = [f"draw-{number:02}" for number in range(DRAWS)]
    for seed, name in enumerate(names):
        flow.step(name, draw, clean["weeks"], seed)
    run = flow.start()
    lose(story, run, "lab-1", lambda: cluster.kill("lab-1"))
    run.wait(timeout=60)
    cluster.wait_for("lab-1", state="dead", timeout=30)
    found = [run[name] for name in names]
    again = sum(step.attempts > 1 for step in run.steps)
    story.check(all(map(math.isfinite, found)), f"all {DRAWS} results are there")
    story.saw(
        "the steps of the lost node ran elsewhere",
        {"steps begun again": again, "the workflow took": _ms(run)},
    )
    middle, spread = statistics.fmean(found), statistics.stdev(found)
    return (
        f"In the 1990s it rose {middle:.1f} ± {spread:.1f} times as fast as in the "
        "1960s."
    )


def _ms(run: Run) -> str:
    return f"{run.duration_ms:,.0f} ms"
