"""Made-up pictures in the shape that the kernel sends them to the panel."""

import random
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from mpreg_nb.view.diagram_svg import Drawing
from mpreg_nb.view.frames import Figures, Route
from mpreg_nb.workflows.graph import Arrow, Box, Diagram

Picture: TypeAlias = dict[str, Any]

VIEWS = ("members", "topology", "routes", "latency", "calls", "runs")
HTML_NAME = "<img src=x onerror=alert(1)>"
LONG_NAME = "a-node-with-a-name-that-nobody-would-type-" + "x" * 80
CLIENT = "this notebook"


def node_names(number: int) -> list[str]:
    """n1, n2 and so on; the second is HTML and the third long, where there are many."""
    names = [f"n{index}" for index in range(1, number + 1)]
    if number >= 5:
        names[1:3] = [HTML_NAME, LONG_NAME]
    return names


def panel(
    names: Sequence[str], *, seed: int = 1, views: Iterable[str] = VIEWS
) -> Picture:
    """All traits of a lively panel."""
    lots = random.Random(seed)
    return {
        "id": "panel-1",
        "views": list(views),
        "head": head(f"{len(names)} nodes · 4 functions · 1,204 calls from here"),
        "members": members(names, lots),
        "topology": topology(names, lots),
        "routes": routes([*FUNCTIONS, HTML_NAME], names, lots),
        "latency": latency(lots),
        "calls": calls(names, lots),
        "runs": runs(names),
    }


def nothing() -> Picture:
    """A panel of a cluster where nothing happened yet."""
    return {
        "id": "panel-1",
        "views": list(VIEWS),
        "head": head("no nodes"),
        "members": {"rows": [], "every_s": 2.0},
        "topology": {"nodes": [], "links": [], "window_s": 10},
        "routes": {"functions": [], "nodes": [], "cells": []},
        "latency": {"bucket_s": 2, "buckets": [], "functions": []},
        "calls": {"window_s": 60, "now_s": 0.0, "functions": [], "nodes": []},
        "runs": {"runs": []},
    }


def head(line: str, *, state: str = "live", note: str = "", error: str = "") -> Picture:
    """The head line of a panel, and the data that it shows."""
    return {
        "line": line,
        "calls_per_s": 12.4,
        "course": [float(second * second % 23) for second in range(60)],
        "state": state,
        "note": note,
        "error": error,
        "drills": True,
    }


RESOURCES = (
    "gpu",
    "dataset-A",
    "ml-models",
    "cpu",
    "<b>bold</b>",
    "storage-of-the-lab",
)


def members(
    names: Sequence[str], lots: random.Random, *, dead: Sequence[str] = ()
) -> Picture:
    """One row a node; the last but one is suspect where there are many."""
    rows = []
    for index, name in enumerate(names):
        state = "dead" if name in dead else "alive"
        if len(names) >= 5 and index == len(names) - 2:
            state = "suspect"
        if len(names) >= 5 and index == len(names) - 1:
            state = "left"
        slots = 1 + index % 4
        cpu = [round(abs(lots.gauss(12, 8)), 1) for _ in range(60)]
        memory = [45 + index + step * 0.1 + lots.random() for step in range(60)]
        rows.append(
            {
                "node": name,
                "state": state,
                "resources": list(RESOURCES[: index % 6]),
                "functions": 4,
                "workers": slots,
                "slots": slots,
                "busy": lots.randint(0, slots),
                "queued": lots.choice([0, 0, 0, 3, 12]),
                "rtt_ms": None if state != "alive" else round(lots.uniform(0.2, 2), 2),
                "cpu_percent": None if state == "dead" else cpu[-1],
                "memory_mb": None if state == "dead" else round(memory[-1], 1),
                "cpu": cpu if index else [],
                "memory": memory if index else [],
                "host": "",
                "python": "3.11",
                "uptime_s": 12 + 77 * index,
                "own": index != 1,
            }
        )
    return {"rows": rows, "every_s": 2.0}


def topology(names: Sequence[str], lots: random.Random) -> Picture:
    """A full mesh, of which every third link is idle."""
    nodes: list[Picture] = [
        {
            "node": CLIENT,
            "kind": "client",
            "state": "alive",
            "entry": False,
            "busy": 0,
            "slots": 0,
            "resources": [],
        }
    ]
    for row in members(names, lots)["rows"]:
        kept = {
            key: row[key] for key in ("node", "state", "busy", "slots", "resources")
        }
        nodes.append({"kind": "node", "entry": row["node"] == names[0], **kept})
    links = []
    for index, left in enumerate([CLIENT, *names]):
        for right in names[index:]:
            rate = 0.0 if lots.random() < 0.34 else 10 ** lots.uniform(1, 6.2)
            links.append(
                {
                    "a": left,
                    "b": right,
                    "bytes_per_s": rate,
                    "messages_per_s": 0.0 if rate == 0 else 1 + rate / 900,
                }
            )
    return {"nodes": nodes, "links": links, "window_s": 10}


FUNCTIONS = ("train", "ingest", "clean_data", "analyse_a_long_series_of_measurements")


def routes(
    functions: Sequence[str], nodes: Sequence[str], lots: random.Random
) -> Picture:
    """Calls by function and node; some cells have none, some have errors."""
    cells: list[list[Route | None]] = []
    for place, function in enumerate(functions):
        row: list[Route | None] = []
        for node in nodes:
            calls = lots.randint(0, 400 // (place + 1))
            row.append(
                None
                if calls < 30
                else Route(
                    function,
                    node,
                    calls,
                    errors=lots.choice([0, 0, 0, 2]),
                    share=calls / 400,
                    p50_ms=round(10 ** lots.uniform(-0.5, 3.2), 2),
                )
            )
        cells.append(row)
    return {"functions": list(functions), "nodes": list(nodes), "cells": cells}


MEASURED_MS = (5.4, 4.2, 14.0, 61.0, 912.4)
"""Mean, percentiles and maximum of the calls of a function."""


def latency(lots: random.Random, *, number: int = 60) -> Picture:
    """Two minutes of calls, with a pause in the middle."""
    buckets = []
    for place in range(number):
        at_s = -2 * (number - 1 - place)
        parts = (
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "waited_ms",
            "queued_ms",
            "run_ms",
            "network_ms",
            "serialize_ms",
        )
        if 20 <= place < 26 or place == 30:
            buckets.append({"at_s": at_s, "calls": 0, **dict.fromkeys(parts)})
            continue
        p50 = 4 + lots.random() * 3 + (6 if place > 40 else 0)
        values = (
            p50,
            p50 * (2 + lots.random()),
            p50 * (6 + 6 * lots.random()),
            lots.random() * (3 if place > 50 else 0),
            lots.random() * (8 if place > 40 else 1),
            p50 * 0.8,
            0.6 + lots.random() * 0.4,
            0.3 + lots.random() * 0.4,
        )
        buckets.append(
            {
                "at_s": at_s,
                "calls": lots.randint(5, 60),
                **dict(zip(parts, values, strict=True)),
            }
        )
    functions = [
        (name, Figures(400 // place, *(ms * place for ms in MEASURED_MS)))
        for place, name in enumerate((*FUNCTIONS, HTML_NAME), 1)
    ]
    return {"bucket_s": 2, "buckets": buckets, "functions": functions}


def calls(names: Sequence[str], lots: random.Random) -> Picture:
    """A minute of calls: long ones, short ones in a row, one that runs, some failed."""
    functions = [*FUNCTIONS, HTML_NAME]
    nodes: list[Picture] = []
    for place, name in enumerate(names):
        slots: list[list[Picture]] = []
        for slot in range(1 + place % 4):
            bars, at_ms = [], -60_000.0
            while at_ms < -200:
                short = lots.random() < 0.4
                long_ms = lots.uniform(100, 900) if short else lots.uniform(200, 9_000)
                end_ms = min(0.0, at_ms + long_ms)
                number = lots.randint(2, 90) if short else 1
                status = lots.choice(["done"] * 8 + ["failed", "cancelled"])
                bars.append(
                    {
                        "function": lots.randrange(len(functions)),
                        "others": 1 if short and lots.random() < 0.2 else 0,
                        "status": "running" if end_ms == 0.0 else status,
                        "start_ms": round(at_ms, 1),
                        "end_ms": round(end_ms, 1),
                        "busy_ms": round((end_ms - at_ms) * lots.uniform(0.4, 1), 1),
                        "calls": number,
                        "failed": 1 if status == "failed" and end_ms < 0 else 0,
                        "run": "",
                        "step": "",
                    }
                )
                at_ms = end_ms + lots.uniform(20, 4_000)
            slots.append(bars if slot < 3 else [])
        nodes.append({"node": name, "state": "alive", "slots": slots})
    return {
        "window_s": 60,
        "now_s": 1_750_000_000.0,
        "functions": [
            {
                "function": name,
                "hue": place,
                "calls": 400 // (place + 1),
                "failed": place,
                "busy_ms": 21_400.0 / (place + 1),
            }
            for place, name in enumerate(functions)
        ],
        "nodes": nodes,
    }


STATUSES = ("done", "done", "running", "failed", "skipped", "waiting", "fallback")
STEPS = ("ingest", "clean", "features", "train", HTML_NAME, "evaluate", "report")


def runs(names: Sequence[str], *, number: int = 3) -> Picture:
    """Runs of one workflow: the newest is running, the others are over."""
    listed = []
    for place in range(number):
        statuses = STATUSES if place == 0 else ("done",) * len(STEPS)
        listed.append(
            {
                "run": f"{place:032x}",
                "workflow": "sensor-report"
                if place
                else "a-workflow-with-quite-a-long-name",
                "status": "running" if place == 0 else ("failed", "done")[place % 2],
                "steps": len(STEPS),
                "done": statuses.count("done"),
                "failed": statuses.count("failed"),
                "duration_ms": 4312.0 + 1000 * place,
                "drawing": drawing(statuses),
                "bars": bars(statuses, names),
            }
        )
    return {"runs": listed}


def drawing(statuses: Sequence[str]) -> Drawing:
    """Seven boxes in four layers."""
    joined = [(0, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 6), (4, 6)]
    boxes = tuple(
        Box(
            name=name,
            kind="input" if place == 0 else "map" if place == 2 else "step",
            function=f"{name}_function",
            resources=("gpu", "a-resource-with-a-long-name") if place == 3 else (),
        )
        for place, name in enumerate(STEPS)
    )
    arrows = tuple(
        Arrow(source=STEPS[start], target=STEPS[end]) for start, end in joined
    )
    states = dict(zip(STEPS, statuses, strict=True))
    details = {step: "on gpu-1, 1.2 s" for step in STEPS if states[step] == "done"}
    return Drawing(Diagram(name="w", boxes=boxes, arrows=arrows), states, details)


def bars(statuses: Sequence[str], names: Sequence[str]) -> list[Picture]:
    """Return one bar for each started step, on the nodes in turn."""
    listed = []
    for place, (step, status) in enumerate(zip(STEPS, statuses, strict=True)):
        if status in ("waiting", "skipped"):
            continue
        start = 520.0 * place
        end = None if status == "running" else start + 300 + 240 * (place % 3)
        node = names[place % min(3, len(names))]
        bar = {"step": step, "node": node, "status": status}
        listed.append({**bar, "start_ms": start, "end_ms": end})
    return listed
