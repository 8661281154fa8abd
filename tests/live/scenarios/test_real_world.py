"""Real data and real models: a pipeline, inference, a business process, monitoring."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mpreg_nb as mp

pytestmark = [pytest.mark.live, pytest.mark.real_world]


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {
        "field": "sensors",
        "lab": {"cpu", "vision", "text"},
        "store": "storage",
    }
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


def ran_on(run: mp.Run) -> dict[str, str]:
    """Return which node ran each step."""
    frame = run.frame()
    return dict(zip(frame["step"], frame["node"], strict=True))


# ------------------------------------------------------------------ a pipeline


def ingest(series: str) -> pd.DataFrame:
    """Read a measured series: weekly carbon dioxide at Mauna Loa, with gaps."""
    from statsmodels.datasets import co2

    assert series == "co2"
    rows: pd.DataFrame = co2.load_pandas().data.reset_index(names="week")
    return rows


def validate(rows: pd.DataFrame) -> dict[str, Any]:
    bad = rows["co2"].isna() | ~rows["co2"].between(250, 500)
    return {"rows": rows[~bad], "rejected": int(bad.sum())}


def find_anomalies(rows: pd.DataFrame) -> pd.DataFrame:
    usual = rows["co2"].rolling(53, center=True, min_periods=20).mean()
    rest = rows["co2"] - usual
    return rows[rest.abs() > 3 * rest.std()]


def keep(path: str, rows: pd.DataFrame, anomalies: pd.DataFrame) -> int:
    with sqlite3.connect(path) as database:
        rows.to_sql("readings", database, index=False)
        anomalies.to_sql("anomalies", database, index=False)
    database.close()
    return len(rows)


def summary(kept: int, rejected: int, anomalies: pd.DataFrame) -> dict[str, int]:
    return {"kept": kept, "rejected": rejected, "anomalies": len(anomalies)}


def test_measured_data_is_cleaned_searched_and_stored(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path = str(tmp_path / "co2.sqlite")
    flow = cluster.workflow("pipeline")
    raw = flow.step("raw", ingest, "co2").on("sensors")
    valid = flow.step("valid", validate, raw).on("cpu")
    odd = flow.step("odd", find_anomalies, valid["rows"]).on("cpu")
    kept = flow.step("kept", keep, path, valid["rows"], odd).on("storage")
    flow.step("summary", summary, kept, valid["rejected"], odd)

    run = flow.run()

    here = validate(run["raw"])
    assert run["summary"] == {
        "kept": len(here["rows"]),
        "rejected": here["rejected"],
        "anomalies": len(find_anomalies(here["rows"])),
    }
    assert run["summary"]["rejected"] > 0
    where = ran_on(run)
    assert [where[step] for step in ("raw", "valid", "kept")] == [
        *("field", "lab", "store")
    ]
    with sqlite3.connect(path) as database:
        (count,) = database.execute("SELECT count(*) FROM readings").fetchone()
    database.close()
    assert count == run["kept"]


def test_a_stream_of_batches_is_processed_in_order(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def mean_of(batch: list[float]) -> float:
        return sum(batch) / len(batch)

    measured = cluster.on("sensors").call(ingest, "co2")
    rows = validate(measured)["rows"]["co2"].tolist()
    batches = [rows[start : start + 52] for start in range(0, len(rows), 52)]

    means = cluster.on("cpu").map(mean_of, batches)

    assert means == pytest.approx([sum(batch) / len(batch) for batch in batches])
    assert means[-1] > means[0] + 20  # what the measurements are famous for


# ------------------------------------------------------------------- inference


def held_out() -> dict[str, Any]:
    """Return images that the model has not seen, and the digits that they show."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return {"test": data.data[1200:], "truth": data.target[1200:]}


def train() -> Any:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_digits()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return model.fit(data.data[:1200], data.target[:1200])


LOADED: dict[str, Any] = {}


def classify(images: np.ndarray) -> list[int]:
    """Use the model of this worker, which is made at its first call."""
    if "model" not in LOADED:
        LOADED["model"] = train()
        LOADED["times"] = LOADED.get("times", 0) + 1
    found: list[int] = LOADED["model"].predict(images).tolist()
    return found


def times_loaded() -> int:
    return int(LOADED.get("times", 0))


def test_a_model_is_loaded_once_and_answers_many_requests(cluster: mp.Cluster) -> None:
    data = cluster.on("vision").call(held_out)
    images, truth = data["test"], data["truth"]

    def predict(batch: np.ndarray) -> tuple[list[int], int]:
        return classify(batch), times_loaded()

    answers = cluster.on("vision").map(predict, np.array_split(images, 20))

    found = [digit for digits, _ in answers for digit in digits]
    assert np.mean(np.array(found) == truth) > 0.88
    assert {times for _, times in answers} == {1}


def route(request: dict[str, Any]) -> dict[str, Any]:
    kind = "text" if isinstance(request["data"], str) else "image"
    return {**request, "kind": kind}


def words(request: dict[str, Any]) -> dict[str, int]:
    return dict(Counter(request["data"].lower().split()))


def brightness(request: dict[str, Any]) -> float:
    return float(np.mean(request["data"]))


def answer(request: dict[str, Any], features: Any) -> dict[str, Any]:
    return {"id": request["id"], "kind": request["kind"], "features": features}


def test_requests_are_routed_to_the_model_of_their_kind(cluster: mp.Cluster) -> None:
    requests = [
        {"id": 1, "data": "to be or not to be"},
        {"id": 2, "data": np.full((8, 8), 3.0)},
    ]
    models = {str: (words, "text"), np.ndarray: (brightness, "vision")}

    async def serve(request: dict[str, Any]) -> Any:
        function, resource = models[type(request["data"])]
        flow = cluster.workflow("inference")
        routed = flow.step("routed", route, request).on("cpu")
        features = flow.step("features", function, routed).on(resource)
        flow.step("answer", answer, routed, features)
        run = await flow.start()
        assert ran_on(run)["features"] == "lab"
        return run["answer"]

    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*map(serve, requests)))

    text, image = asyncio.run(all_of_them())

    assert text["features"] == {"to": 2, "be": 2, "or": 1, "not": 1}
    assert (image["kind"], image["features"]) == ("image", 3.0)


def test_an_ensemble_votes(cluster: mp.Cluster) -> None:
    def vote(*answers: str) -> str:
        return Counter(answers).most_common(1)[0][0]

    flow = cluster.workflow("ensemble")
    votes = [
        flow.step(f"model {number}", str.strip, text).on("vision")
        for number, text in enumerate([" cat", "dog ", " cat "])
    ]
    flow.step("vote", vote, *votes).on("cpu")

    assert flow.run()["vote"] == "cat"


# ---------------------------------------------------------- a business process


def check_invoice(invoice: dict[str, Any]) -> dict[str, Any]:
    total = sum(line["price"] * line["count"] for line in invoice["lines"])
    return {**invoice, "total": total, "large": total > 1000}


def approve(invoice: dict[str, Any]) -> str:
    return "by the board" if invoice["large"] else "by the desk"


def book_invoice(path: str, invoice: dict[str, Any], approved: str) -> int:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS booked (id, total, approved)")
        row = (invoice["id"], invoice["total"], approved)
        database.execute("INSERT INTO booked VALUES (?, ?, ?)", row)
        (count,) = database.execute("SELECT count(*) FROM booked").fetchone()
    database.close()
    return int(count)


def test_invoices_are_checked_approved_and_booked(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path = str(tmp_path / "books.sqlite")
    flow = cluster.workflow("invoice")
    checked = flow.step("checked", check_invoice, flow.input("invoice")).on("cpu")
    approved = flow.step("approved", approve, checked)
    flow.step("booked", book_invoice, path, checked, approved).on("storage")
    invoices = [
        {"id": 1, "lines": [{"price": 10, "count": 3}]},
        {"id": 2, "lines": [{"price": 700, "count": 1}, {"price": 350, "count": 2}]},
    ]

    runs = [flow.run(invoice=invoice) for invoice in invoices]

    assert [run["booked"] for run in runs] == [1, 2]
    assert [run["approved"] for run in runs] == ["by the desk", "by the board"]
    assert {ran_on(run)["booked"] for run in runs} == {"store"}


# ----------------------------------------------------------------- monitoring


def test_what_was_done_can_be_seen_in_every_table(cluster: mp.Cluster) -> None:
    cluster.register(brightness, name="watched", resources={"vision"})
    cluster.map("watched", [{"data": np.ones(3)}] * 7)

    nodes = cluster.nodes().set_index("node")
    functions = cluster.functions("watched").iloc[0]
    latency = cluster.latency(by=("function", "node"))
    seen = latency[latency["function"] == "watched"]
    assert set(nodes["state"]) == {"alive"}
    assert (functions["nodes"], functions["calls"], functions["errors"]) == (
        *("lab", 7, 0),
    )
    assert seen["node"].tolist() == ["lab"]
    assert seen["count"].tolist() == [7]
    joined = cluster.events().query("event == 'joined'")["node"]
    assert set(joined) == {"field", "lab", "store"}
