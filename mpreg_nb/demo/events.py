"""Events: a chain, one service more, everybody told, a slow consumer, a node that dies.

The same job as the tutorial 09_events.
"""

import sqlite3
import time
from collections import deque
from concurrent.futures import as_completed
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpreg_nb.client.future import Future
from mpreg_nb.cluster.api import current, function, up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.demo.story import Story

NODES = {
    "shop": {"orders"},
    "depot-1": {"parcels", "screen"},
    "depot-2": {"parcels", "screen"},
    "office": {"letters", "screen"},
}
HANDLERS = [
    ("ordered.charge", "orders", "charged", "paid"),
    ("paid.pack", "parcels", "packed", "packed"),
    ("paid.write", "letters", "receipt written", ""),
    ("packed.tell", "letters", "customer told", ""),
]
"""Event and what is done about it, resource, what is noted, the event that follows."""

LATE = ("paid.count", "orders", "counted", "")
ORDERS = 40
WEIGHED, WINDOW = 150, 16
SLOTS = 8
"""Events that a node handles at once; most of them only wait for what follows."""


def note(book: str, number: int, fact: str) -> None:
    """Write a fact into the book; a second time, nothing happens."""
    with closing(sqlite3.connect(book, timeout=30)) as database, database:
        database.execute("insert into handled values (?, ?)", [number, fact])
        database.execute("insert or ignore into facts values (?, ?)", [number, fact])


def publish(event: str, book: str, number: int) -> dict[str, Future[Any]]:
    """Tell all handlers of an event; return their futures, by name."""
    cluster = current()  # on a node it is the cluster that this function runs in
    handlers = sorted(cluster.functions(f"{event}.*").function)
    return {name: cluster.on(wait=30).submit(name, book, number) for name in handlers}


def handle(fact: str, follows: str, book: str, number: int) -> None:
    """Note what happened, and see the event through that follows from it."""
    note(book, number, fact)
    if follows:
        _see_through(follows, book, number)


def _see_through(event: str, book: str, number: int) -> list[str]:
    """Publish an event and wait until it was handled; return who was told."""
    told = publish(event, book, number)
    for future in told.values():
        future.result()
    return list(told)


@function(resources={"screen"}, idempotent=True)
def show(text: str) -> str:
    """Show a text to the people at a node."""
    return f"shows {text!r}"


@function(resources={"parcels"}, idempotent=True)
def weigh(number: int) -> int:
    """Take some time for each parcel."""
    time.sleep(0.01)
    return number


def tell(story: Story) -> None:
    """Run the demo."""
    story.title(
        "Nobody calls the next service",
        "A service says what happened; whoever wants to know of it acts. An event\n"
        "handler is a function with a name such as paid.pack: the event, then the act.",
    )
    with (
        TemporaryDirectory() as folder,
        up(NODES, slots=SLOTS, fresh=True) as cluster,
    ):
        book = str(Path(folder, "book.db"))
        _ask(book, "pragma journal_mode=wal")
        _ask(book, "create table facts (number, fact, unique (number, fact))")
        _ask(book, "create table handled (number, fact)")
        _chain(story, cluster, book)
        _one_more(story, cluster, book)
        _everybody(story, cluster)
        _back_pressure(story)
        again = _at_least_once(story, cluster, book)
    story.end(
        f"{ORDERS} orders came through the death of a node. Handlers that ran again: "
        f"{again}. Facts that are noted twice: none.",
        "notebooks/09_events.ipynb   the same, with a picture of the back-pressure",
        "mpreg-nb demo orders        a workflow instead: one order, and its undo",
    )


def _chain(story: Story, cluster: Cluster, book: str) -> None:
    story.act(
        "A chain of events",
        "Four handlers. None of them knows another; each says what has happened.",
    )
    for handler in HANDLERS:
        _join(cluster, *handler)
    story.show(cluster.functions("*.*")[["function", "resources", "nodes"]])
    with story.timed() as first_s:
        told = _see_through("ordered", book, 1)
    with story.timed() as second_s:
        _see_through("ordered", book, 2)
    story.saw(f"an order was published; told was only {', '.join(told)}")
    facts = _facts(book, 2)
    story.check(len(facts) == len(HANDLERS), f"all followed: {', '.join(facts)}")
    story.saw(
        "how long that took",
        {
            "the first order, for which workers load the code": _ms(first_s()),
            "the next order": _ms(second_s()),
        },
    )


def _one_more(story: Story, cluster: Cluster, book: str) -> None:
    story.act("A service more", "It registers a handler. Nothing else changes.")
    _join(cluster, *LATE)
    _see_through("ordered", book, 3)
    story.check("counted" in _facts(book, 3), "the next order is counted too")


def _everybody(story: Story, cluster: Cluster) -> None:
    story.act(
        "Everybody is told",
        "An event goes to one node that fits. Some are for all that hold a resource.",
    )
    nodes = cluster.nodes()
    screens = sorted(
        name
        for name, held in zip(nodes.node, nodes.resources, strict=True)
        if "screen" in held
    )
    sent = {node: show.on(node=node).submit("we close at six") for node in screens}
    shown = {node: future.result() for node, future in sent.items()}
    story.saw(f"{len(shown)} screens, told at the same time", shown)


def _back_pressure(story: Story) -> None:
    story.act(
        "A consumer that is slow",
        f"{WEIGHED} parcels to weigh, 10 ms each. At most {WINDOW} are under way, so\n"
        "   that a slow consumer holds the producer back and fills no memory.",
    )
    window: deque[Future[int]] = deque(maxlen=WINDOW)
    most = held_back = weighed = 0
    with story.timed() as seconds:
        for number in range(WEIGHED):
            if len(window) == WINDOW:
                held_back += not window[0].done()
                window.popleft().result()
                weighed += 1
            window.append(weigh.submit(number))
            most = max(most, len(window))
        weighed += sum(future.result() >= 0 for future in window)
    story.check(weighed == WEIGHED and most == WINDOW, "all of them were weighed")
    story.saw(
        "the producer went as fast as the consumer",
        {
            "under way at most": most,
            "had to wait": f"{held_back} times",
            "parcels a second": f"{WEIGHED / seconds():.0f}",
        },
    )


def _at_least_once(story: Story, cluster: Cluster, book: str) -> int:
    """Return how many handlers ran although their fact was noted already."""
    story.act(
        "A depot dies in the middle",
        f"{ORDERS} orders are under way. What the depot had begun is lost, or perhaps\n"
        "   done: nobody can know. So it is handled again, and noted once.",
    )
    first = 100
    sent = [
        future
        for number in range(first, first + ORDERS)
        for future in publish("ordered", book, number).values()
    ]
    next(as_completed(sent))
    cluster.kill("depot-1")
    open_orders = sum(not future.done() for future in sent)
    story.saw(f"depot-1 is lost with {open_orders} of {ORDERS} orders under way")
    with story.timed() as seconds:
        for future in sent:
            future.result(timeout=90)
    in_book = "select fact, count(*) from facts where number >= ? group by fact"
    counts: dict[str, int] = dict(_ask(book, in_book, first))
    ran = "select count(*) from handled where number >= ?"
    [handled] = _ask(book, ran, first)[0]
    facts = sum(counts.values())
    again = int(handled) - facts
    story.check(
        len(counts) == len(HANDLERS) + 1 and set(counts.values()) == {ORDERS},
        f"each fact is in the book {ORDERS} times, once for each order",
    )
    story.saw(
        "each event was handled at least once",
        {
            "facts": facts,
            "handlers that ran again": again,
            "all was done after": f"{seconds():.1f} s",
        },
    )
    return again


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _join(cluster: Cluster, name: str, resource: str, fact: str, follows: str) -> None:
    """Register a handler of an event."""
    cluster.register(partial(handle, fact, follows), name, {resource}, idempotent=True)


def _facts(book: str, number: int) -> list[str]:
    query = "select fact from facts where number = ? order by rowid"
    return [fact for (fact,) in _ask(book, query, number)]


def _ask(book: str, query: str, *values: int) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(book, timeout=30)) as database, database:
        return database.execute(query, values).fetchall()
