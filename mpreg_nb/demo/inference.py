"""Models that serve: a router, two kinds of model, an ensemble, a change under load.

The same job as the tutorial 07_model_serving. Images, texts and models are those of
scikit-learn: 1,797 handwritten digits, and the descriptions of its data sets.
"""

import functools
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mpreg_nb.client.future import Future
from mpreg_nb.cluster.api import function, up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.run import Run
from mpreg_nb.demo.datasets import require
from mpreg_nb.demo.story import Story
from mpreg_nb.workflows.builder import Flow

NODES = {
    "front": {"router"},
    "vision-1": {"vision"},
    "vision-2": {"vision"},
    "language-1": {"language"},
}
KINDS = ("bayes", "neighbours", "tree")
TOPICS = ("breast_cancer", "iris", "lfw", "kddcup99", "twenty_newsgroups", "wine_data")
BATCH = 60
FLOOD_S = 0.5
"""How long requests come before the model is replaced, and after it."""


@function(resources={"vision"})
def fit(shelf: str, kind: str, images: Any, labels: Any) -> str:
    """Train a model that reads digits, and put it on the shelf."""
    import joblib
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.tree import DecisionTreeClassifier

    models = {
        "bayes": GaussianNB(var_smoothing=0.05),
        "neighbours": KNeighborsClassifier(3),
        "tree": DecisionTreeClassifier(max_depth=8, random_state=0),
    }
    models[kind].fit(images.reshape(len(images), -1) / 16, labels)
    joblib.dump(models[kind], Path(shelf, f"{kind}.joblib"))
    return kind


@function(resources={"language"})
def fit_topics(shelf: str) -> int:
    """Train a model that tells what a note is about; return how many words it knows."""
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import ComplementNB
    from sklearn.pipeline import make_pipeline

    pairs = [(sentence, topic) for topic in TOPICS for sentence in _sentences(topic)]
    model = make_pipeline(TfidfVectorizer(stop_words="english"), ComplementNB())
    model.fit(*zip(*pairs, strict=True))
    joblib.dump(model, Path(shelf, "topics.joblib"))
    return len(model[0].vocabulary_)


def _sentences(topic: str) -> list[str]:
    text = (files("sklearn.datasets.descr") / f"{topic}.rst").read_text("utf-8")
    found = re.sub(r"[^a-zA-Z.']+", " ", text).split(". ")
    return [sentence.strip() for sentence in found if len(sentence.split()) > 7]


@functools.cache
def load(shelf: str, name: str) -> Any:
    """Take a model from the shelf; once in each worker."""
    import joblib

    return joblib.load(Path(shelf, f"{name}.joblib"))


@function(resources={"vision"}, idempotent=True)
def read(shelf: str, kind: str, images: Any) -> dict[str, Any]:
    """Read digits, of one image or of many, by one kind of model."""
    digits = load(shelf, kind).predict(images.reshape(-1, 64) / 16)
    loads = load.cache_info().misses
    return {"digits": digits.tolist(), "model": kind, "loads": loads}


@function(resources={"language"}, idempotent=True)
def about(shelf: str, note: str) -> str:
    """Say what a note is about."""
    return str(load(shelf, "topics").predict([note])[0])


@function(resources={"router"})
def route(request: dict[str, Any]) -> dict[str, Any]:
    """Say which models a request needs."""
    return {"vision": "pictures" in request, "language": "note" in request, **request}


@function(resources={"router"})
def answer(read: dict[str, Any] | None, topic: str | None) -> str:
    """Put together what the models found."""
    code = "".join(map(str, read["digits"])) if read else "????"
    return f"parcel {code} goes to the shelf {(topic or 'unknown').upper()}"


@function(resources={"router"})
def majority(votes: Sequence[dict[str, Any]]) -> list[int]:
    """Return for each image what most models read."""
    columns = zip(*(vote["digits"] for vote in votes), strict=True)
    return [Counter(column).most_common(1)[0][0] for column in columns]


def build(cluster: Cluster, shelf: str) -> "Flow[Run, Any]":
    """Return router → the models that a request needs → answer."""
    flow = cluster.workflow("parcel")
    routed = flow.step("router", route, flow.input("request"))
    code = flow.step("vision", read, shelf, "bayes", routed["pictures"])
    topic = flow.step("language", about, shelf, routed["note"])
    code.when(routed["vision"])
    topic.when(routed["language"])
    # What was skipped is no failure: the answer gets None in its place.
    seen = flow.step("code", dict, code).on("router").fallback(None)
    said = flow.step("topic", str, topic).on("router").fallback(None)
    flow.step("answer", answer, seen, said)
    return flow


def tell(story: Story) -> None:
    """Run the demo."""
    require("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    story.title(
        "Models that serve",
        "A parcel office photographs a handwritten code, and has a note in words.\n"
        f"Images, texts, models: those of scikit-learn {version('scikit-learn')}.",
    )
    digits = load_digits()
    images, tests, labels, right = train_test_split(
        digits.images, digits.target, test_size=0.2, random_state=0
    )
    with TemporaryDirectory() as shelf, up(NODES, fresh=True) as cluster:
        _train(story, shelf, images, labels)
        _requests(story, cluster, shelf, tests)
        single, batch = _batches(story, cluster, shelf, tests)
        best = _ensemble(story, cluster, shelf, tests, right)
        _replace(story, cluster, shelf, tests)
    story.end(
        f"The best model reads {best:.1%} of the digits right; batches of {BATCH} make "
        f"it {batch / single:.0f} times as fast.",
        "notebooks/07_model_serving.ipynb   the same, with figures and a live panel",
        "mpreg-nb demo monitoring           how to be told when it no longer works",
    )


def _train(story: Story, shelf: str, images: Any, labels: Any) -> None:
    story.act(
        "Four models are trained",
        "Three that read digits, on the two vision nodes; one for words elsewhere.",
    )
    with story.timed() as seconds:
        words = fit_topics.submit(shelf)
        count = len(KINDS)
        fit.map([shelf] * count, KINDS, [images] * count, [labels] * count)
        figures = {"images": len(images), "words": words.result()}
    story.saw(f"they are on the shelf after {seconds():.1f} s", figures)


def _requests(story: Story, cluster: Cluster, shelf: str, tests: Any) -> None:
    story.act(
        "The router decides which models are asked",
        "One request has a picture and a note, one has a note only.",
    )
    flow = build(cluster, shelf)
    story.show(flow)
    run = flow.run(request={"pictures": tests[:4], "note": "Iris plants and petals"})
    story.saw(run["answer"], {s.name: s.node for s in run.steps if s.status == "done"})
    run = flow.run(request={"note": "Wines grown in Italy, and their alcohol"})
    skipped = [step.name for step in run.steps if step.status == "skipped"]
    story.saw(run["answer"], {"skipped": ", ".join(skipped)})
    story.check(skipped == ["vision"], "no vision node was asked without a picture")


def _batches(
    story: Story, cluster: Cluster, shelf: str, tests: Any
) -> tuple[float, float]:
    """Return images a second, one in each call and many in each call."""
    story.act(
        "One image a call, or many",
        f"{len(tests)} images, one in each call and {BATCH} in each call.",
    )
    for node in ("vision-1", "vision-2"):
        seen = [
            read.on(node=node).call(shelf, "bayes", tests[:1])["loads"]
            for _ in range(9)
        ]
        story.check(len(set(seen)) == 1, f"{node} loaded the model once, for 9 calls")
    rates: dict[int, float] = {}
    figures: dict[str, str] = {}
    found: list[list[int]] = []
    for size in (1, BATCH):
        parts = np.split(tests, len(tests) // size)
        before = len(cluster.calls())
        with story.timed() as seconds:
            answers = read.map([shelf] * len(parts), ["bayes"] * len(parts), parts)
        took = cluster.calls().total_ms.iloc[before:]
        rates[size] = len(tests) / seconds()
        figures[f"{size} in a call"] = (
            f"{rates[size]:,.0f} images a second; a call takes "
            f"{took.quantile(0.5):.1f} ms (median), {took.quantile(0.95):.1f} (p95)"
        )
        found.append([digit for one in answers for digit in one["digits"]])
    story.check(found[0] == found[1], "the answers are the same")
    story.saw("each call has its price, whatever it carries", figures)
    return rates[1], rates[BATCH]


def _ensemble(
    story: Story, cluster: Cluster, shelf: str, tests: Any, right: Any
) -> float:
    """Return the share of images that the best model reads right."""
    story.act(
        "Three models vote",
        "All three are asked at the same time; the last step counts the votes.",
    )
    flow = cluster.workflow("ensemble")
    votes = [flow.step(kind, read, shelf, kind, tests) for kind in KINDS]
    flow.step("together", majority, votes)
    run = flow.run()
    guesses = {kind: run[kind]["digits"] for kind in KINDS}
    shares = {kind: float(np.mean(guesses[kind] == right)) for kind in KINDS}
    together = float(np.mean(run["together"] == right))
    story.saw(
        f"of {len(tests)} images that no model had seen, right are:",
        {k: f"{share:.1%}" for k, share in {**shares, "together": together}.items()},
    )
    return max(*shares.values(), together)


def _replace(story: Story, cluster: Cluster, shelf: str, tests: Any) -> None:
    story.act(
        "A model is replaced while requests run",
        "Requests come one after the other. In the middle, a new version of the\n"
        "   function is registered that asks a better model.",
    )
    _install(cluster, shelf, "tree")
    sent: list[tuple[bool, Future[Any]]] = []  # whether the new one was there, answer
    replaced, enough = threading.Event(), threading.Event()

    def requests() -> None:
        while not enough.wait(0.004):
            late = replaced.is_set()
            sent.append((late, cluster.submit("reader", tests[len(sent) % len(tests)])))

    sender = threading.Thread(target=requests)
    sender.start()
    time.sleep(FLOOD_S)
    _install(cluster, shelf, "neighbours")
    replaced.set()
    time.sleep(FLOOD_S)
    enough.set()
    sender.join()
    used = [(late, future.result(timeout=30)["model"]) for late, future in sent]
    before = Counter(model for late, model in used if not late)
    after = Counter(model for late, model in used if late)
    story.saw(
        f"{len(used)} requests, and each has its answer",
        {
            "before": ", ".join(f"{n} by {model}" for model, n in before.items()),
            "after": ", ".join(f"{n} by {model}" for model, n in after.items()),
        },
    )
    story.check(
        set(after) == {"neighbours"}, "none that came after it met the old model"
    )


def _install(cluster: Cluster, shelf: str, kind: str) -> None:
    """Register the newest version of `reader`: it asks this kind of model."""
    reader = functools.partial(read, shelf, kind)
    cluster.register(reader, "reader", {"vision"}, idempotent=True)
