"""Ocean temperatures as a stream of batches: checked, repaired, stored, explained.

The same job as the tutorial 06_data_pipeline. The series was measured off Peru and
comes inside the package statsmodels; three of its years are spoiled on the way here.
"""

import functools
import json
import sqlite3
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpreg_nb.cluster.api import function, up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.run import Run
from mpreg_nb.demo.datasets import measured, require
from mpreg_nb.demo.story import Story
from mpreg_nb.workflows.builder import Flow

NODES = {
    "buoy": {"sensor"},
    "lab-1": {"compute"},
    "lab-2": {"compute"},
    "store": {"storage"},
}
YEARS = range(1950, 2011)
SPOILED, GAP, EMPTY = 1957, 1971, 1990
WINDOW = 8
"""Batches under way at once: a slow store slows the stream, and fills no memory."""

Row = tuple[int, int, float, float, str]
"""Year, month, temperature, how far from the usual, and what that is called."""


@function(resources={"sensor"})
def ingest(year: int) -> dict[str, Any]:
    """Return the twelve values of a year as they arrive."""
    values = next(row[1:] for row in measured("elnino") if row[0] == str(year))
    if year == SPOILED:
        values[4] = values[4].replace(".", "")
    if year == GAP:
        values[9] = ""
    if year == EMPTY:
        values = []
    return {"year": year, "values": values}


@function(resources={"compute"})
def validate(batch: dict[str, Any]) -> dict[str, Any]:
    """Say what is wrong with a batch, and whether it can be used."""
    values: list[float | None] = []
    problems: list[str] = []
    for month, text in enumerate(batch["values"], start=1):
        value = float(text or "nan")
        if 10 < value < 35:
            values.append(value)
        else:
            values.append(None)
            problems.append(f"month {month} is {text or 'missing'}")
    if len(values) != 12:
        problems.append(f"{len(values)} months")
    usable = len(values) == 12 and values.count(None) <= 1
    return {
        "year": batch["year"],
        "values": values,
        "problems": problems,
        "usable": usable,
        "unusable": not usable,
    }


@function(resources={"compute"})
def repair(checked: dict[str, Any]) -> list[float]:
    """Fill a gap with the mean of the months around it."""
    values = list(checked["values"])
    for month, value in enumerate(values):
        if value is None:
            around = [v for v in (values[month - 1], values[(month + 1) % 12]) if v]
            values[month] = round(statistics.fmean(around), 2)
    return values


@function(resources={"storage"}, idempotent=True)
def set_aside(folder: str, checked: dict[str, Any]) -> None:
    """Keep a batch that cannot be used, for a person to look at."""
    Path(folder, f"aside-{checked['year']}.json").write_text(json.dumps(checked))


@functools.cache
def usual() -> list[tuple[float, float]]:
    """Return mean and spread of each month from 1961 to 1990; once in each worker."""
    years = [row[1:] for row in measured("elnino") if 1961 <= int(row[0]) <= 1990]
    months = [[float(value) for value in month] for month in zip(*years, strict=True)]
    return [(statistics.fmean(month), statistics.stdev(month)) for month in months]


@function(resources={"compute"})
def explain(year: int, values: Sequence[float]) -> list[Row]:
    """Return a row for each month: how warm, and how far from what is usual."""
    rows: list[Row] = []
    pairs = zip(values, usual(), strict=True)
    for month, (value, (mean, spread)) in enumerate(pairs, start=1):
        apart = (value - mean) / spread
        kind = "El Niño" if apart > 2 else "La Niña" if apart < -2 else ""
        rows.append((year, month, value, round(value - mean, 2), kind))
    return rows


@function(resources={"storage"}, idempotent=True)
def to_sqlite(folder: str, rows: Sequence[Row]) -> int:
    """Store a batch for questions; a batch that comes twice replaces itself."""
    with closing(_database(folder)) as database, database:
        database.execute(
            "create table if not exists months "
            "(year, month, celsius, apart, kind, primary key (year, month))"
        )
        database.executemany("insert or replace into months values (?,?,?,?,?)", rows)
    return len(rows)


@function(resources={"storage"}, idempotent=True)
def to_parquet(folder: str, year: int, rows: Sequence[Row]) -> str:
    """Store a batch for analysis."""
    import pyarrow
    from pyarrow import parquet

    names = ["year", "month", "celsius", "apart", "kind"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    target = Path(folder, f"{year}.parquet")
    parquet.write_table(pyarrow.table(columns), target)
    return target.name


@function(resources={"storage"}, idempotent=True)
def ask(folder: str, question: str) -> list[tuple[Any, ...]]:
    """Answer a question where the database is; only the answer travels."""
    with closing(_database(folder)) as database:
        return database.execute(question).fetchall()


@function(resources={"storage"}, idempotent=True)
def count_in_parquet(folder: str) -> int:
    """Return how many rows the parquet files hold."""
    from pyarrow import parquet

    paths = Path(folder).glob("*.parquet")
    return sum(parquet.read_metadata(path).num_rows for path in paths)


def build(cluster: Cluster, folder: str) -> "Flow[Run, Any]":
    """Return the way of one batch; `.when` sends it one way or the other."""
    flow = cluster.workflow("ocean")
    batch = flow.step("ingest", ingest, flow.input("year")).retry(2, delay=0.1)
    checked = flow.step("validate", validate, batch)
    flow.step("aside", set_aside, folder, checked).when(checked["unusable"])
    values = flow.step("repair", repair, checked).when(checked["usable"])
    rows = flow.step("explain", explain, checked["year"], values)
    flow.step("sqlite", to_sqlite, folder, rows)
    flow.step("parquet", to_parquet, folder, checked["year"], rows)
    return flow


def tell(story: Story) -> None:
    """Run the demo."""
    require("statsmodels", "pyarrow")
    story.title(
        "Sixty years of ocean temperatures, batch by batch",
        f"Measured off Peru, month by month (statsmodels {version('statsmodels')}).\n"
        "A buoy measures, two labs compute, one node stores.",
    )
    with TemporaryDirectory() as folder, up(NODES, fresh=True) as cluster:
        flow = build(cluster, folder)
        _one_batch(story, flow)
        _stream(story, flow, folder)
        _answer(story, cluster, folder)


def _one_batch(story: Story, flow: "Flow[Run, Any]") -> None:
    story.act(
        "Two batches that are not as they should be",
        f"In {SPOILED} a value lost its decimal point; the batch of {EMPTY} is empty.",
    )
    story.show(flow)
    run = flow.run(year=SPOILED)
    story.saw(
        f"{SPOILED} is repaired and stored",
        {"wrong": ", ".join(run["validate"]["problems"]), "now": run["repair"][4]},
    )
    run = flow.run(year=EMPTY)
    skipped = [step.name for step in run.steps if step.status == "skipped"]
    story.saw(
        f"{EMPTY} is set aside, and nothing failed",
        {"skipped": ", ".join(skipped), "the run is": run.status},
    )


def _stream(story: Story, flow: "Flow[Run, Any]", folder: str) -> None:
    story.act(
        f"The stream: {len(YEARS)} batches",
        f"At most {WINDOW} are under way, so that a slow store fills no memory.",
    )
    with story.timed() as seconds:
        runs: list[Run] = []
        under_way: deque[Run] = deque(maxlen=WINDOW)
        for year in YEARS:
            under_way.append(flow.start(year=year))
            if len(under_way) == WINDOW:
                runs.append(under_way.popleft().wait(timeout=60))
        runs += [run.wait(timeout=60) for run in under_way]
    steps = [step for run in runs for step in run.steps if step.status == "done"]
    shares = Counter(step.node for step in steps)
    aside = sorted(path.stem for path in Path(folder).glob("aside-*.json"))
    story.saw(
        f"{len(runs)} batches, {len(steps)} steps in {seconds():.1f} s",
        {
            "batches a second": f"{len(runs) / seconds():.0f}",
            "steps by node": ", ".join(f"{n} {shares[n]}" for n in NODES),
            "set aside": ", ".join(aside),
        },
    )
    story.check(aside == [f"aside-{EMPTY}"], "only the empty batch was set aside")


def _answer(story: Story, cluster: Cluster, folder: str) -> None:
    story.act(
        "What was found",
        "The question goes to the node with the data; only the answer travels.",
    )
    months = 12 * (len(YEARS) - 1)
    ((stored,),) = ask.call(folder, "select count(*) from months")
    in_parquet = count_in_parquet.call(folder)
    story.check(
        stored == in_parquet == months,
        f"{months} months are in SQLite, and the same {months} in parquet",
    )
    found = ask.call(
        folder,
        "select year, count(*), max(apart) from months where kind = 'El Niño' "
        "group by year having count(*) > 2 order by year",
    )
    story.saw(
        "years in which three months or more were far too warm",
        {
            str(year): f"{count:2} months, up to {apart:+.1f} °C"
            for year, count, apart in found
        },
    )
    warmest = sorted(found, key=lambda row: row[2])[-2:]
    years = " and ".join(str(year) for year, _, _ in sorted(warmest))
    story.end(
        f"El Niño was strongest in {years}.",
        "notebooks/06_data_pipeline.ipynb   the same, with a dashboard that moves",
        "mpreg-nb demo orders               steps that change things, and their undo",
    )


def _database(folder: str) -> sqlite3.Connection:
    return sqlite3.connect(Path(folder, "ocean.db"), timeout=20)
