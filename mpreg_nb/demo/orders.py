"""A shop: an order as a workflow of seven services, its undoing, and a rush.

The same job as the tutorial 08_shop. Every service keeps its own books.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpreg_nb.cluster.api import up
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.run import Run
from mpreg_nb.demo.story import Story
from mpreg_nb.errors import WorkflowFailed
from mpreg_nb.workflows.builder import Flow

NODES = {
    "front": {"gateway"},
    "bank": {"payment"},
    "depot": {"inventory", "shipping"},
    "office": {"mail"},
}
BUYERS = 500
STOCK = 100
PRICES = {"lamp": 4_900, "kite": 1_250}  # in cents


class SoldOut(Exception):
    """There is no piece left."""


@contextmanager
def books(folder: str, service: str) -> Iterator[sqlite3.Connection]:
    """Open the database of a service; changes are kept if nothing fails."""
    path = Path(folder, f"{service}.db")
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        yield database


def accept(number: int, buyer: str, item: str, address: str) -> dict[str, Any]:
    """Take an order."""
    return {"number": number, "buyer": buyer, "item": item, "address": address}


def price(item: str) -> int:
    """Return what an item costs, in cents."""
    return PRICES[item]


def reserve(folder: str, item: str) -> None:
    """Take a piece from the shelf."""
    with books(folder, "inventory") as database:
        taken = database.execute(
            "update stock set pieces = pieces - 1 where item = ? and pieces > 0", [item]
        )
        if taken.rowcount == 0:
            raise SoldOut(f"no {item} left")


def put_back(folder: str, item: str) -> None:
    """Undo `reserve`."""
    with books(folder, "inventory") as database:
        database.execute("update stock set pieces = pieces + 1 where item = ?", [item])


def charge(folder: str, number: int, buyer: str, cents: int) -> str:
    """Take the money; the bank keeps one line for each order."""
    with books(folder, "bank") as database:
        row = [number, buyer, cents]
        database.execute("insert or ignore into payments values (?, ?, ?)", row)
    return f"paid {cents / 100:.2f} euro"


def refund(folder: str, number: int) -> None:
    """Undo `charge`."""
    with books(folder, "bank") as database:
        database.execute("delete from payments where number = ?", [number])


def ship(item: str, address: str) -> str:
    """Send the piece; this is where a missing address is noticed."""
    if not address:
        raise ValueError("no address to ship to")
    return f"{item} to {address}"


def mail(buyer: str, shipped: str) -> str:
    """Tell the buyer. The mail server is down today."""
    raise ConnectionError(f"no mail to {buyer} of {shipped}: the server is down")


def receipt(number: int, paid: str, shipped: str, told: str) -> str:
    """Return the line that the buyer keeps."""
    return f"order {number}: {paid}, {shipped} ({told})"


def build(cluster: Cluster, folder: str) -> "Flow[Run, Any]":
    """Return the workflow of an order; what changes the books has its undo."""
    flow = cluster.workflow("order")
    inputs = (flow.input(name) for name in ("number", "buyer", "item", "address"))
    order = flow.step("accept", accept, *inputs).on("gateway")
    cents = flow.step("price", price, order["item"]).on("gateway")
    taken = flow.step("reserve", reserve, folder, order["item"]).on("inventory")
    taken.after(cents).undo(put_back, folder, order["item"])
    paid = flow.step(
        "charge", charge, folder, order["number"], order["buyer"], cents
    ).on("payment")
    paid.after(taken).undo(refund, folder, order["number"])
    shipped = flow.step("ship", ship, order["item"], order["address"]).on("shipping")
    shipped.after(paid)
    told = flow.step("mail", mail, order["buyer"], shipped).on("mail")
    told.fallback("mail follows")
    flow.step("receipt", receipt, order["number"], paid, shipped, told).on("gateway")
    return flow


def tell(story: Story) -> None:
    """Run the demo."""
    story.title(
        "A shop that sells exactly what it has",
        "Four nodes, seven services, no lock and no transaction across them.",
    )
    with TemporaryDirectory() as folder, up(NODES, fresh=True) as cluster:
        _open(folder)
        flow = build(cluster, folder)
        _one_order(story, flow)
        _undone(story, flow, folder)
        _rush(story, flow, folder)


def _one_order(story: Story, flow: "Flow[Run, Any]") -> None:
    story.act(
        "One order",
        "Each step runs on the node of its service. The mail server is down: a\n"
        "   fallback lets the order go through.",
    )
    story.show(flow)
    first = flow.run(number=1, buyer="ada", item="lamp", address="London")
    story.saw(first["receipt"])
    again = flow.run(number=2, buyer="mary", item="lamp", address="Cambridge")
    nodes = {step.node for step in again.steps if step.node}
    story.saw(
        f"{len(again.steps)} steps on {len(nodes)} nodes",
        {
            "the first order, for which workers load the code": _ms(first),
            "the next order": _ms(again),
        },
    )


def _undone(story: Story, flow: "Flow[Run, Any]", folder: str) -> None:
    story.act(
        "An order that fails in the middle",
        "There is no address. When shipping notices, a lamp is taken and paid for.\n"
        "   The saga undoes what was done, the last step first.",
    )
    before = _stand(folder)
    try:
        flow.run(number=3, buyer="grace", item="lamp", address="")
    except WorkflowFailed as error:
        failed = error.run
    else:
        raise RuntimeError("an order without an address went through")
    story.show(failed.frame()[["step", "status", "node"]])
    undone = [step.name for step in failed.steps if step.status == "undone"]
    story.saw(f"undone: {', '.join(reversed(undone))}")
    story.check(_stand(folder) == before, "the books are as they were before")


def _rush(story: Story, flow: "Flow[Run, Any]", folder: str) -> None:
    story.act(
        f"{BUYERS} buyers, {STOCK} kites",
        "All of them buy at the same moment. Each order is a run of its own.",
    )
    paid_before = _stand(folder)["payments"]
    with story.timed() as seconds:
        ends = _buy(flow)
    took = seconds()
    stand = _stand(folder)
    story.saw(
        f"all {BUYERS} orders have an end after {took:.1f} s",
        {
            "got a kite": ends["sold"],
            "were told that it is sold out": ends[SoldOut.__name__],
            "kites left on the shelf": stand["kite"],
            "orders a second": f"{BUYERS / took:.0f}",
        },
    )
    story.check(
        ends["sold"] == STOCK
        and ends[SoldOut.__name__] == BUYERS - STOCK
        and stand["kite"] == 0,
        f"exactly {STOCK} were sold, and nobody else was promised one",
    )
    story.check(
        stand["payments"] - paid_before == STOCK,
        f"exactly {STOCK} paid, each of them once",
    )
    story.end(
        f"{STOCK} of {BUYERS} got one. Nothing was locked: the depot takes one order "
        "after the other.",
        "notebooks/08_shop.ipynb   also: a bank that breaks down, circuit breakers",
        "mpreg-nb demo cluster     what happens to work when nodes are lost",
    )


def _buy(flow: "Flow[Run, Any]") -> "Counter[str]":
    """Let everybody buy a kite at once; return how often each end was met."""
    runs = [
        flow.start(number=1000 + n, buyer=f"buyer-{n}", item="kite", address="home")
        for n in range(BUYERS)
    ]
    ends: Counter[str] = Counter()
    for run in runs:
        try:
            run.wait(timeout=120)
        except WorkflowFailed as error:
            ends.update(type(failure).__name__ for failure in error.exceptions)
        else:
            ends["sold"] += 1
    return ends


def _ms(run: Run) -> str:
    return f"{run.duration_ms:.0f} ms"


def _open(folder: str) -> None:
    with books(folder, "inventory") as database:
        database.execute("create table stock (item primary key, pieces)")
        stock = [("lamp", 3), ("kite", STOCK)]
        database.executemany("insert into stock values (?, ?)", stock)
    with books(folder, "bank") as database:
        database.execute("create table payments (number primary key, buyer, cents)")


def _stand(folder: str) -> dict[str, int]:
    """Return what is in the books now."""
    with books(folder, "inventory") as database:
        stock: dict[str, int] = dict(database.execute("select item, pieces from stock"))
    with books(folder, "bank") as database:
        (payments,) = database.execute("select count(*) from payments").fetchone()
    return {**stock, "payments": payments}
