"""Patterns that services are built by: a shop, a saga, a breaker."""

import asyncio
import threading
from typing import Any

import pytest

from mpreg_nb.mpreg import MPREGClientAPI, RPCCommand
from tests.support.mpreg_servers import clustered, served

ACCOUNTS = {"anna": 100, "bert": 100, "cleo": 10, "dora": 100}


class Shop:
    """Five services with state of their own, each on a server of its own."""

    def __init__(self, stock: int) -> None:
        self.stock = stock
        self.sold: list[str] = []
        self._lock = threading.Lock()

    def services(self) -> dict[str, Any]:
        return {
            "gateway": ({"gateway"}, {"accept": self.accept, "answer": dict}),
            "auth": ({"auth"}, {"log_in": self.log_in}),
            "payment": ({"payment"}, {"price": self.price, "pay": self.pay}),
            "inventory": ({"inventory"}, {"take": self.take, "ship": self.ship}),
            "analytics": ({"analytics"}, {"note": self.note}),
        }

    def accept(self, user: str, item: str) -> dict[str, str]:
        return {"user": user, "item": item}

    def log_in(self, user: str) -> dict[str, Any]:
        if user not in ACCOUNTS:
            raise PermissionError(f"nobody is called {user}")
        return {"user": user, "money": ACCOUNTS[user]}

    def price(self, item: str) -> int:
        return 5 * len(item)

    def take(self, item: str, session: dict[str, Any]) -> str:
        with self._lock:
            if self.stock == 0:
                raise LookupError(f"{item} is sold out")
            self.stock -= 1
        return f"{item} for {session['user']}"

    def pay(self, session: dict[str, Any], price: int, taken: str) -> dict[str, Any]:
        if session["money"] < price:
            raise ValueError(f"{session['user']} lacks {price - session['money']}")
        return {"paid": price, "for": taken}

    def ship(self, payment: dict[str, Any]) -> str:
        return f"sent: {payment['for']}"

    def note(self, user: str, payment: dict[str, Any]) -> None:
        self.sold.append(user)


def purchase(user: str, item: str) -> list[RPCCommand]:
    return [
        RPCCommand("order", "accept", (user, item), locs={"gateway"}),
        RPCCommand("session", "log_in", ("order.user",), locs={"auth"}),
        RPCCommand("price", "price", ("order.item",), locs={"payment"}),
        RPCCommand("taken", "take", ("order.item", "session"), locs={"inventory"}),
        RPCCommand("payment", "pay", ("session", "price", "taken"), locs={"payment"}),
        RPCCommand("shipping", "ship", ("payment",), locs={"inventory"}),
        RPCCommand("noted", "note", ("session.user", "payment"), locs={"analytics"}),
        RPCCommand(
            name="receipt",
            fun="answer",
            kwargs={"user": "session.user", "way": "shipping", "paid": "payment.paid"},
            locs={"gateway"},
        ),
    ]


async def test_a_shop_sells_what_it_has_to_those_who_can_pay() -> None:
    shop = Shop(stock=3)
    async with (
        clustered(shop.services()) as servers,
        MPREGClientAPI(servers["gateway"].url) as client,
    ):
        receipt = await client.request(purchase("anna", "lamp"))
        with pytest.raises(PermissionError, match="nobody is called eve"):
            await client.request(purchase("eve", "lamp"))
        with pytest.raises(ValueError, match="cleo lacks 10"):
            await client.request(purchase("cleo", "lamp"))

        rush = await asyncio.gather(
            *(client.request(purchase(user, "lamp")) for user in ("bert", "dora")),
            return_exceptions=True,
        )

    assert receipt == {
        "noted": None,
        "receipt": {"user": "anna", "way": "sent: lamp for anna", "paid": 20},
    }
    sold_out = [one for one in rush if isinstance(one, LookupError)]
    assert len(sold_out) == 1
    assert "lamp is sold out" in str(sold_out[0])
    assert len(shop.sold) == 2
    assert shop.stock == 0


async def test_a_saga_takes_back_what_was_done() -> None:
    done: list[str] = []

    def book(what: str) -> dict[str, str]:
        if what == "car":
            raise RuntimeError("no car is left")
        done.append(what)
        return {"booked": what}

    def cancel(booking: dict[str, str]) -> None:
        done.remove(booking["booked"])

    trip = [
        RPCCommand("hotel", "book", ("a hotel",)),
        RPCCommand("flight", "book", ("a flight",)),
        RPCCommand("trip", "echo", (["hotel", "flight"],)),
    ]
    async with served({"book": book, "cancel": cancel}) as (_, client):
        bookings = (await client.request(trip))["trip"]
        assert sorted(done) == ["a flight", "a hotel"]
        with pytest.raises(RuntimeError, match="no car is left"):
            await client.request([RPCCommand("car", "book", ("car",))])
        await client.request(
            [
                RPCCommand(f"undo {number}", "cancel", (booking,))
                for number, booking in enumerate(reversed(bookings))
            ]
        )

    assert done == []


async def test_a_breaker_in_a_function_spares_what_is_broken() -> None:
    asked = 0
    failures = 0

    def guarded(value: int) -> str:
        nonlocal asked, failures
        if failures >= 3:
            return "open"
        asked += 1
        failures += 1
        raise ConnectionError(f"backend did not take {value}")

    async with served({"guarded": guarded}) as (_, client):
        for number in range(3):
            with pytest.raises(ConnectionError, match=f"did not take {number}"):
                await client.call("guarded", number)
        answers = {await client.call("guarded", number) for number in range(10)}

    assert answers == {"open"}
    assert asked == 3
