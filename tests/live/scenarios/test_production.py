"""A shop and its services: purchases, sagas, breakers, degradation, high load."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.mpreg import MPREGClientAPI, RPCCommand
from tests.support.mpreg_servers import clustered

pytestmark = [pytest.mark.live, pytest.mark.production]


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {
        "gateway": "gateway",
        "auth": "auth",
        "payment": "payment",
        "warehouse": {"inventory", "shipping"},
        "office": {"mail", "analytics"},
    }
    with mp.up(nodes, slots=4, fresh=True) as cluster:
        yield cluster


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """The shop's books, with five lamps in stock and three customers."""
    path = str(tmp_path / "shop.sqlite")
    with sqlite3.connect(path) as books:
        books.executescript(
            """
            PRAGMA journal_mode = WAL;
            CREATE TABLE stock (item TEXT PRIMARY KEY, count INTEGER);
            CREATE TABLE money (user TEXT PRIMARY KEY, amount INTEGER);
            CREATE TABLE log (what TEXT);
            INSERT INTO stock VALUES ('lamp', 5);
            INSERT INTO money VALUES ('anna', 100), ('bert', 100), ('cleo', 10);
            """
        )
    books.close()
    return path


# The services. Each opens the books for one transaction.


def change(path: str, statement: str, *values: Any, what: str) -> int:
    """Make one change and note it; return how many rows it changed."""
    with sqlite3.connect(path, timeout=60) as books:
        changed = books.execute(statement, values).rowcount
        if changed:
            books.execute("INSERT INTO log VALUES (?)", (what,))
    books.close()
    return changed


def accept(user: str, item: str) -> dict[str, str]:
    return {"user": user, "item": item}


def authenticate(path: str, user: str) -> dict[str, str]:
    with sqlite3.connect(path, timeout=60) as books:
        known = books.execute("SELECT 1 FROM money WHERE user = ?", (user,)).fetchone()
    books.close()
    if not known:
        raise PermissionError(f"nobody is called {user}")
    return {"user": user, "session": f"s-{user}"}


def reserve(path: str, item: str, session: dict[str, str]) -> dict[str, str]:
    statement = "UPDATE stock SET count = count - 1 WHERE item = ? AND count > 0"
    if not change(path, statement, item, what=f"reserve {session['user']}"):
        raise LookupError(f"{item} is sold out")
    return {"item": item, "user": session["user"]}


def release(path: str, reserved: dict[str, str]) -> None:
    statement = "UPDATE stock SET count = count + 1 WHERE item = ?"
    change(path, statement, reserved["item"], what=f"release {reserved['user']}")


def price_of(item: str) -> int:
    return {"lamp": 20}[item]


def pay(path: str, session: dict[str, str], price: int) -> dict[str, Any]:
    user = session["user"]
    statement = "UPDATE money SET amount = amount - ? WHERE user = ? AND amount >= ?"
    if not change(path, statement, price, user, price, what=f"pay {user}"):
        raise ValueError(f"{user} lacks the money")
    return {"user": user, "paid": price}


def refund(path: str, payment: dict[str, Any]) -> None:
    statement = "UPDATE money SET amount = amount + ? WHERE user = ?"
    values = (payment["paid"], payment["user"])
    change(path, statement, *values, what=f"refund {payment['user']}")


def ship(path: str, reserved: dict[str, str], payment: dict[str, Any]) -> str:
    change(path, "SELECT 1", what="")
    return f"{reserved['item']} for {payment['user']}"


def no_courier(*_: Any) -> str:
    raise ConnectionError("no courier answers")


def mail(session: dict[str, str], parcel: str) -> str:
    return f"Dear {session['user']}, we have sent: {parcel}"


def count_sale(payment: dict[str, Any]) -> int:
    return int(payment["paid"])


def receipt(letter: str, sold: int) -> dict[str, Any]:
    return {"letter": letter, "paid": sold}


def purchase(
    cluster: mp.Cluster, path: str, shipping: Any = ship, refund: Any = refund
) -> Any:
    """Return the purchase of nine steps, with what takes it back."""
    flow = cluster.workflow("purchase")
    user, item = flow.input("user"), flow.input("item")
    order = flow.step("order", accept, user, item).on("gateway")
    session = flow.step("session", authenticate, path, order["user"]).on("auth")
    stock = flow.step("stock", reserve, path, order["item"], session).on("inventory")
    stock.undo(release, path, stock)
    price = flow.step("price", price_of, order["item"]).on("payment").after(stock)
    paid = flow.step("paid", pay, path, session, price).on("payment")
    paid.undo(refund, path, paid)
    parcel = flow.step("parcel", shipping, path, stock, paid).on("shipping")
    letter = flow.step("letter", mail, session, parcel).on("mail")
    sold = flow.step("sold", count_sale, paid).on("analytics")
    flow.step("receipt", receipt, letter, sold).on("gateway")
    return flow


def ask(path: str, question: str) -> list[Any]:
    with sqlite3.connect(path) as books:
        rows = [row[0] for row in books.execute(question)]
    books.close()
    return rows


def ran_on(run: mp.Run) -> dict[str, str]:
    """Return which node ran each step."""
    frame = run.frame()
    return dict(zip(frame["step"], frame["node"], strict=True))


# ------------------------------------------------------------------ purchases


def test_a_purchase_passes_through_every_service(
    cluster: mp.Cluster, shop: str
) -> None:
    run = purchase(cluster, shop).run(user="anna", item="lamp")

    assert run["receipt"] == {
        "letter": "Dear anna, we have sent: lamp for anna",
        "paid": 20,
    }
    assert ran_on(run) == {
        "order": "gateway",
        "session": "auth",
        "stock": "warehouse",
        "price": "payment",
        "paid": "payment",
        "parcel": "warehouse",
        "letter": "office",
        "sold": "office",
        "receipt": "gateway",
    }
    assert ask(shop, "SELECT count FROM stock") == [4]


def test_a_stranger_buys_nothing(cluster: mp.Cluster, shop: str) -> None:
    with pytest.raises(mp.errors.WorkflowFailed, match="nobody is called eve"):
        purchase(cluster, shop).run(user="eve", item="lamp")

    assert ask(shop, "SELECT count FROM stock") == [5]
    assert ask(shop, "SELECT what FROM log") == []


def test_many_buyers_at_once_buy_what_there_is_and_no_more(
    cluster: mp.Cluster, shop: str
) -> None:
    change(shop, "UPDATE money SET amount = 10000", what="rich")

    async def buy(user: str) -> str:
        try:
            run = await purchase(cluster, shop).start(user=user, item="lamp")
        except mp.errors.WorkflowFailed as error:
            return str(error.exceptions[0])
        return str(run.status)

    async def rush() -> list[str]:
        users = ["anna", "bert", "cleo"] * 8
        return list(await asyncio.gather(*map(buy, users)))

    ends = Counter(asyncio.run(rush()))

    assert ends["done"] == 5
    assert sum(ends.values()) == 24
    assert all("sold out" in end for end in ends if end != "done")
    assert ask(shop, "SELECT count FROM stock") == [0]
    assert len(ask(shop, "SELECT what FROM log WHERE what LIKE 'pay %'")) == 5


# ---------------------------------------------------------------------- sagas


def test_a_saga_takes_back_payment_and_stock_in_reverse_order(
    cluster: mp.Cluster, shop: str
) -> None:
    with pytest.raises(mp.errors.WorkflowFailed, match="no courier answers") as caught:
        purchase(cluster, shop, no_courier).run(user="anna", item="lamp")

    assert caught.value.undone == ("stock", "paid")
    assert ask(shop, "SELECT what FROM log") == [
        *("reserve anna", "pay anna", "refund anna", "release anna")
    ]
    assert ask(shop, "SELECT count FROM stock") == [5]
    assert ask(shop, "SELECT amount FROM money WHERE user = 'anna'") == [100]


def test_a_saga_takes_back_only_what_was_done(cluster: mp.Cluster, shop: str) -> None:
    with pytest.raises(mp.errors.WorkflowFailed, match="cleo lacks the money"):
        purchase(cluster, shop).run(user="cleo", item="lamp")

    assert ask(shop, "SELECT what FROM log") == ["reserve cleo", "release cleo"]


def test_a_failed_compensation_is_reported(cluster: mp.Cluster, shop: str) -> None:
    def bank_is_closed(*_: Any) -> None:
        raise TimeoutError("the bank is closed")

    flow = purchase(cluster, shop, no_courier, refund=bank_is_closed)

    with pytest.raises(mp.errors.WorkflowFailed) as caught:
        flow.run(user="anna", item="lamp")

    assert caught.value.not_undone == {"paid": "TimeoutError: the bank is closed"}
    assert caught.value.undone == ("stock",)


# ------------------------------------------------------------- orchestration


def test_services_answer_requests_of_the_older_names(tmp_path: Path) -> None:
    services: dict[str, tuple[Iterable[str], dict[str, Any]]] = {
        "auth": (["auth"], {"log_in": lambda user: {"user": user, "ok": True}}),
        "rules": (["rules"], {"check": lambda session, sum: session["ok"] and sum < 9}),
        "books": (["books"], {"persist": lambda *facts: list(facts)}),
    }
    order = [
        RPCCommand("session", "log_in", ("anna",), locs={"auth"}),
        RPCCommand("checked", "check", ("session", 5), locs={"rules"}),
        RPCCommand("kept", "persist", ("session.user", "checked"), locs={"books"}),
    ]

    async def scene() -> Any:
        async with (
            clustered(services) as servers,
            MPREGClientAPI(servers["rules"].url) as client,
        ):
            return await client.request(order)

    assert asyncio.run(scene()) == {"kept": ["anna", True]}


def test_events_fan_out_to_every_subscriber(cluster: mp.Cluster) -> None:
    def handle(event: str, by: str) -> str:
        return f"{by}: {event}"

    flow = cluster.workflow("paid event")
    event = flow.step("event", accept, "anna", "lamp").on("gateway")
    for subscriber in ("mail", "analytics", "shipping"):
        flow.step(subscriber, handle, event["item"], subscriber).on(subscriber)

    run = flow.run()

    assert run.outputs == {
        name: f"{name}: lamp" for name in ("mail", "analytics", "shipping")
    }
    where = ran_on(run)
    assert (where["mail"], where["shipping"]) == ("office", "warehouse")


# ------------------------------------------------- breakers and degradation


def test_a_service_that_is_down_is_replaced_by_its_fallback(
    cluster: mp.Cluster, shop: str
) -> None:
    def usual(error: Exception) -> str:
        return f"in three days ({error})"

    flow = cluster.workflow("degraded")
    parcel = flow.step("parcel", no_courier).on("shipping").fallback(usual)
    flow.step("letter", mail, {"user": "anna"}, parcel).on("mail")

    run = flow.run()

    assert "in three days (no courier answers)" in run["letter"]
    assert [step.status for step in run.steps] == ["fallback", "done"]


def test_a_breaker_of_a_service_opens_and_closes(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    """The breaker is a function of the shop: its state stays in the node's worker."""

    def charge(amount: int, down: str) -> str:
        import pathlib

        breaker = BREAKER
        if breaker["failures"] >= 3 and breaker["spared"] < 2:
            breaker["spared"] += 1
            raise ConnectionRefusedError("the breaker is open")
        try:
            if pathlib.Path(down).exists():
                raise ConnectionError("the bank does not answer")
        except ConnectionError:
            breaker["failures"] += 1
            breaker["spared"] = 0
            raise
        breaker["failures"] = 0
        return f"charged {amount}"

    down = tmp_path / "down"
    down.touch()
    cluster.register(charge, resources={"payment"})

    def ends() -> str:
        try:
            return str(cluster.call("charge", 5, str(down)))
        except ConnectionError as error:
            return str(error.args[0])

    failing = [ends() for _ in range(4)]
    down.unlink()
    recovering = [ends() for _ in range(3)]

    assert failing == ["the bank does not answer"] * 3 + ["the breaker is open"]
    assert recovering == ["the breaker is open", "charged 5", "charged 5"]


BREAKER = {"failures": 0, "spared": 0}


# ------------------------------------------------------------------ high load


def test_thousands_of_requests_are_answered_each_with_its_own(
    cluster: mp.Cluster,
) -> None:
    def double(number: int) -> int:
        return 2 * number

    assert cluster.map(double, range(2000)) == list(range(0, 4000, 2))


def test_quick_requests_are_not_held_up_by_slow_ones(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    def slow(end: str) -> str:
        import pathlib

        while not pathlib.Path(end).exists():
            time.sleep(0.005)
        return "slow"

    end = tmp_path / "end"
    view = cluster.on("mail", timeout=60)
    held = [view.submit(slow, str(end)) for _ in range(3)]  # of four slots

    quick = view.map(str, range(100))
    waiting = [future.done() for future in held]
    end.touch()

    assert quick == [str(number) for number in range(100)]
    assert waiting == [False] * 3
    assert [future.result(60) for future in held] == ["slow"] * 3


def test_unlike_work_runs_beside_each_other(cluster: mp.Cluster) -> None:
    def crunch(number: int) -> int:
        return sum(n * n for n in range(number))

    work = [
        *(cluster.on("analytics").submit(crunch, 3000) for _ in range(10)),
        *(cluster.on("mail").submit(mail, {"user": "a"}, str(n)) for n in range(10)),
        *(cluster.on("gateway").submit(len, b"x" * 200_000) for _ in range(10)),
    ]

    results = [future.result(30) for future in work]

    assert results[:10] == [crunch(3000)] * 10
    assert results[19] == "Dear a, we have sent: 9"
    assert results[20:] == [200_000] * 10
    assert cluster.calls().tail(30)["status"].eq("done").all()
