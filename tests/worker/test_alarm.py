"""One thread calls what is due, and keeps nothing whose owner is gone."""

import gc
import math
import socket
import threading
import weakref
from collections.abc import Callable

from mpreg_nb.worker.channel import Alarm, AnswerSender, Holder
from tests.support.until import until


def is_forgotten(refer: Callable[[], object]) -> bool:
    gc.collect()
    return refer() is None


class Owner:
    def __init__(self) -> None:
        self.rang = 0

    def ring(self, now: float) -> float:
        self.rang += 1
        return math.inf


def test_what_is_forgotten_when_it_is_due_is_neither_called_nor_kept() -> None:
    alarm, owners = Alarm(), [Owner()]
    all_due, over = threading.Event(), threading.Event()

    def wait(now: float) -> float:
        all_due.wait(60)
        return math.inf

    def forget(now: float) -> float:
        alarm.forget(owners[0].ring)
        return math.inf

    def end(now: float) -> float:
        over.set()
        return math.inf

    for tick in (wait, forget, owners[0].ring, end):
        alarm.set(0.0, tick)
    all_due.set()

    assert over.wait(60)
    assert owners[0].rang == 0
    refer = weakref.ref(owners.pop())
    del tick
    until(lambda: is_forgotten(refer))


def test_a_client_that_is_let_go_is_not_kept_by_what_is_held_for_it_later() -> None:
    here, there = socket.socketpair()
    node, worker = socket.socketpair()
    with here, there, node, worker:
        outbox = AnswerSender(worker)
        holder = Holder(there, 1, outbox)
        holder.let_go()
        holder.hold(b"an answer that came too late")
        refer = weakref.ref(holder)
        del holder

        until(lambda: is_forgotten(refer))
