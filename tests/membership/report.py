"""Measures membership in simulated time: prints a table, draws a plot, checks bounds.

`make simulation` takes one or two minutes, `make simulation-long` hours of simulated
time and many seeds. The exit code is 1 if a figure is outside of its bound.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mpreg_nb.membership.config import PROFILES, ProfileName
from tests.membership.experiments import (
    BOUNDS_S,
    EXPERIMENTS,
    IDLE_BYTES_PER_S,
    FalseBeliefs,
    Split,
    beliefs,
    pause_again_and_again,
    quantile,
    slow_tenth,
    without_lifeguard,
)
from tests.support.simulation import Simulation, quiet_cluster, settled

PROFILE_NAMES: tuple[ProfileName, ...] = ("local", "lan", "wan")
LOSSES = (0.05, 0.1, 0.2, 0.3)
OFF, ON = "Lifeguard off", "Lifeguard on"


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    table: str
    what: str
    profile: str
    nodes: int
    figures: dict[str, float] = field(default_factory=dict)
    bound: float = math.nan
    """What the figure named `judged` may be at most."""
    judged: str = ""

    @property
    def is_within(self) -> bool:
        """Whether the row keeps its bound, if it has one."""
        return math.isnan(self.bound) or self.figures[self.judged] <= self.bound


@dataclass(frozen=True)
class Scale:
    """How much is simulated."""

    seeds: dict[int, int]  # number of nodes -> runs of each experiment
    hours: dict[int, float]  # number of nodes -> simulated time of loss
    halves_apart_s: dict[int, float]  # number of nodes -> length of the partition
    thousand: bool


QUICK = Scale(
    seeds={3: 20, 10: 10, 100: 1},
    hours={3: 0.5, 10: 0.15, 100: 0.005},
    halves_apart_s={10: 1800.0, 100: 60.0},
    thousand=True,
)
LONG = Scale(
    seeds={3: 200, 10: 200, 100: 20},
    hours={3: 10.0, 10: 3.0, 100: 1.0},
    halves_apart_s={10: 1800.0, 100: 1800.0},
    thousand=True,
)
SMALL = Scale(seeds={3: 2}, hours={3: 0.02}, halves_apart_s={3: 60.0}, thousand=False)
SCALES = {"small": SMALL, "quick": QUICK, "long": LONG}

Job = Callable[[], list[Row]]


# -------------------------------------------------------------- measurements


def agreement(
    experiment: str, profile: ProfileName, count: int, seeds: int
) -> list[Row]:
    """Measure the seconds until all nodes agree."""
    took_s = [
        EXPERIMENTS[experiment](settled(count, profile, seed)) for seed in range(seeds)
    ]
    bound_s = BOUNDS_S[experiment].get((profile, count), math.nan)
    return [agreed(experiment, profile, count, took_s, bound_s)]


def agreed(
    what: str,
    profile: ProfileName,
    count: int,
    took_s: Sequence[float],
    bound_s: float,
) -> Row:
    """Return the row of one experiment."""
    figures = {
        "p50 s": quantile(took_s, 0.5),
        "p99 s": quantile(took_s, 0.99),
        "max s": max(took_s),
        "runs": len(took_s),
    }
    return Row("agreement", what, profile, count, figures, bound_s, "p99 s")


def false_alarms(
    profile: ProfileName, count: int, loss: float, stalls: float, hours: float
) -> list[Row]:
    """Measure what is wrongly believed while messages are lost or late."""
    sim = settled(count, profile, 1)
    sim.loss, sim.stalls = loss, stalls
    seconds = hours * 3600
    traffic = Traffic(sim)
    sim.run(seconds)
    found = beliefs(sim)
    what = f"{loss:.0%} loss" if loss else f"{stalls:.0%} stalls"
    figures = {
        "hours": hours * count,
        **alarms(found, hours * count),
        "refuted p50 s": quantile(found.refuted_s, 0.5),
        "refuted p99 s": quantile(found.refuted_s, 0.99),
        "revived max s": max(found.revived_s, default=math.nan),
        **traffic.figures(seconds),
    }
    bound = 0.0 if loss <= 0.2 else 0.1
    rows = [Row("false alarms", what, profile, count, figures, bound, "DEAD/h")]
    if loss <= 0.05 and not stalls:
        probes = seconds / sim.settings.period_s * count
        rate = {"SUSPECT/probe": found.suspected / probes}
        rows.append(Row("rates", what, profile, count, rate, 1e-3, "SUSPECT/probe"))
    return rows


def alarms(found: FalseBeliefs, node_hours: float) -> dict[str, float]:
    """Return false beliefs per node and hour."""
    return {
        "SUSPECT/h": found.suspected / node_hours,
        "DEAD/h": found.dead / node_hours,
    }


def slow_nodes(what: str, count: int, seeds: int, seconds: float) -> list[Row]:
    """Measure what slow nodes make of healthy ones, with Lifeguard and without."""
    experiment: Callable[[Simulation, float], FalseBeliefs]
    experiment = slow_tenth if what == "slow nodes" else pause_again_and_again
    dead: dict[str, int] = {}
    rows = []
    for name in (ON, OFF):
        settings = PROFILES["local"]
        if name == OFF:
            settings = without_lifeguard(settings)
        found = []
        for seed in range(seeds):
            sim = settled(count, settings, seed)
            sim.loss = 0.3 if what != "slow nodes" else 0.0
            found.append(experiment(sim, seconds))
        hours = count * seconds * seeds / 3600
        suspected = sum(one.suspected for one in found)
        dead[name] = sum(one.dead for one in found)
        figures = {
            "hours": hours,
            "SUSPECT/h": suspected / hours,
            "DEAD/h": dead[name] / hours,
            "deaths": dead[name],
        }
        bound = 0.0 if name == ON and what != "slow nodes" else math.nan
        rows.append(
            Row(
                "Lifeguard", f"{what}, {name}", "local", count, figures, bound, "deaths"
            )
        )
    share = {"on / off": dead[ON] / dead[OFF] if dead[OFF] else math.inf}
    rows.append(Row("rates", what, "local", count, share, 1 / 20, "on / off"))
    return rows


class Traffic:
    """What the nodes of a simulation send and cost from now on."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._sent_bytes, self._sent_frames = self._sent()
        self._delivered = sim.delivered
        self._cpu_s = time.process_time()

    def figures(self, seconds: float) -> dict[str, float]:
        """Return them for each node and second; processor time for each message."""
        cpu_s = time.process_time() - self._cpu_s
        sent_bytes, sent_frames = self._sent()
        each = len(self._sim.processes) * seconds
        messages = self._sim.delivered - self._delivered
        return {
            "bytes/s": (sent_bytes - self._sent_bytes) / each,
            "frames/s": (sent_frames - self._sent_frames) / each,
            "us/message": cpu_s / max(1, messages) * 1e6,
        }

    def _sent(self) -> tuple[int, int]:
        nodes = self._sim.processes
        return sum(n.sent_bytes for n in nodes), sum(n.sent_frames for n in nodes)


def idle(profile: ProfileName, count: int) -> list[Row]:
    """Measure what a quiet cluster sends."""
    return [idle_row(settled(count, profile), profile, count)]


def idle_row(sim: Simulation, profile: ProfileName, count: int) -> Row:
    """Return the row of a quiet cluster."""
    seconds = 20 * sim.settings.period_s if count <= 100 else 5.0
    traffic = Traffic(sim)
    sim.run(seconds)
    bound = IDLE_BYTES_PER_S.get((profile, count), math.nan)
    figures = traffic.figures(seconds)
    return Row("idle", "quiet", profile, count, figures, bound, "bytes/s")


def halves_apart(profile: ProfileName, count: int, seconds: float) -> list[Row]:
    """Measure how long two halves need that were apart for so long."""
    sim = settled(count, profile, 1)
    names = [node.name for node in sim.running]
    sim.cut = Split(frozenset(sim.rng.sample(names, count // 2)))
    sim.run(seconds)
    sim.cut = None
    took_s = sim.run_until(sim.is_whole, 120.0)
    what = f"{seconds / 60:g} minutes apart"
    bound_s = BOUNDS_S["heal"][profile, count]
    return [agreed(what, profile, count, [took_s], bound_s)]


def thousand(profile: ProfileName) -> list[Row]:
    """Measure one cluster of a thousand nodes, one fault after the other."""
    count = 1000
    sim = quiet_cluster(count, PROFILES[profile])
    rows = [idle_row(sim, profile, count)]
    for name in (
        "catalog change",
        "join",
        "leave",
        "crash with reset",
        "restart",
        "silent crash",
    ):
        took_s = EXPERIMENTS[name](sim)
        bound_s = BOUNDS_S[name][profile, count]
        rows.append(agreed(name, profile, count, [took_s], bound_s))
    return rows


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield all measurements, the longest first."""
    if scale.thousand:
        yield partial(thousand, "lan")
    counts = sorted(scale.hours, reverse=True)
    for count in counts:
        losses = LOSSES if count < 100 else (0.2, 0.3)
        for profile in PROFILE_NAMES if count < 100 else ("lan",):
            for loss in losses:
                hours = scale.hours[count]
                yield partial(false_alarms, profile, count, loss, 0.0, hours)
    for count, seconds in scale.halves_apart_s.items():
        for profile in PROFILE_NAMES if count < 100 else ("lan",):
            yield partial(halves_apart, profile, count, seconds)
    if scale is not SMALL:
        is_long = scale is LONG
        for what in ("slow nodes", "stopped again and again"):
            count = 100 if is_long else 30
            yield partial(slow_nodes, what, count, 8 if is_long else 5, 60.0)
        for share in (0.1, 0.3):
            yield partial(false_alarms, "lan", 10, 0.0, share, scale.hours[10])
    for count in sorted(scale.seeds, reverse=True):
        for profile in PROFILE_NAMES:
            yield partial(idle, profile, count)
            for experiment in EXPERIMENTS:
                yield partial(agreement, experiment, profile, count, scale.seeds[count])


# ------------------------------------------------------------------ the report


def printed(rows: Sequence[Row]) -> str:
    """Return the tables as text."""
    lines = []
    order = {"agreement": 0, "false alarms": 1, "Lifeguard": 2, "idle": 3, "rates": 4}
    for table in sorted({row.table for row in rows}, key=order.__getitem__):
        chosen = [row for row in rows if row.table == table]
        chosen.sort(key=lambda row: (row.what, row.profile, row.nodes))
        names = list(dict.fromkeys(name for row in chosen for name in row.figures))
        head = f"{table:34}{'profile':>8}{'nodes':>6}"
        lines += [head + "".join(f"{name:>15}" for name in names) + f"{'bound':>10}"]
        for row in chosen:
            cells = [_cell(row.figures.get(name, math.nan)) for name in names]
            line = f"  {row.what:32}{row.profile:>8}{row.nodes:6}"
            line += "".join(f"{cell:>15}" for cell in cells) + f"{_cell(row.bound):>10}"
            lines.append(line + ("" if row.is_within else "  OUTSIDE"))
        lines.append("")
    return "\n".join(lines)


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.4g}"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw detection, false alarms and traffic."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (detection, doubts, traffic) = plt.subplots(
        1, 3, figsize=(15, 4.5), layout="constrained"
    )
    for profile in PROFILE_NAMES:
        for experiment, style in (("silent crash", "-"), ("crash with reset", "--")):
            found = _points(rows, "agreement", experiment, profile)
            if found:
                nodes = [row.nodes for row in found]
                p99_s = [row.figures["p99 s"] for row in found]
                detection.plot(
                    nodes, p99_s, style, marker="o", label=f"{profile}, {experiment}"
                )
        for count in (3, 10):
            lossy = [
                row
                for row in rows
                if (row.table, row.profile, row.nodes)
                == ("false alarms", profile, count)
                and row.what.endswith("loss")
            ]
            if lossy:
                losses = [float(row.what.split("%")[0]) for row in lossy]
                per_hour = [row.figures["SUSPECT/h"] for row in lossy]
                doubts.plot(losses, per_hour, marker="o", label=f"{profile}, {count}")
        quiet = _points(rows, "idle", "quiet", profile)
        if quiet:
            nodes = [row.nodes for row in quiet]
            sent = [row.figures["bytes/s"] for row in quiet]
            traffic.plot(nodes, sent, marker="o", label=profile)
    detection.set(xscale="log", yscale="log", xlabel="nodes", ylabel="seconds, p99")
    detection.set_title("Dead at all nodes after a crash")
    doubts.set(xlabel="messages lost, percent", ylabel="per node and hour")
    doubts.set_title("False suspicions")
    traffic.set(xscale="log", xlabel="nodes", ylabel="bytes per second", ylim=(0, None))
    traffic.set_title("What an idle node sends")
    for axes in (detection, doubts, traffic):
        axes.legend(fontsize="small")
        axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _points(rows: Sequence[Row], table: str, what: str, profile: str) -> list[Row]:
    found = [r for r in rows if (r.table, r.what, r.profile) == (table, what, profile)]
    return sorted(found, key=lambda row: row.nodes)


def _done(job: Job) -> list[Row]:
    return job()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and draw; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", choices=sorted(SCALES), nargs="?", default="quick")
    parser.add_argument("--plot", type=Path, default=Path("build/simulation.png"))
    asked = parser.parse_args(arguments)
    processes = os.cpu_count() or 1
    rows: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for found in pool.imap(_done, jobs(SCALES[asked.scale])):
            rows += found
    sys.stdout.write(printed(rows))
    draw(rows, asked.plot)
    missed = [row for row in rows if not row.is_within]
    sys.stdout.write(
        f"{len(rows)} rows, {len(missed)} outside of their bounds; plot: {asked.plot}\n"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
