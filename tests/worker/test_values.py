"""What goes to a worker and comes back is what it was."""

import asyncio
import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mpreg_nb.errors import NotPicklable
from mpreg_nb.protocol.worker import Job, JobDone
from mpreg_nb.serialize.json_rpc import pack_json_call
from mpreg_nb.serialize.pickle import pack, pack_call, pack_function
from tests.support.cells import run_cell
from tests.support.workers import Ended, Office, office, run, value_of

pytestmark = pytest.mark.live


def test_functions_of_all_kinds_run_and_values_keep_their_types(tmp_path: Path) -> None:
    space = run_cell(
        "import functools\n"
        "from dataclasses import dataclass, field\n"
        "from enum import Enum\n"
        "SCALE = 3\n"
        "def made(n):\n"
        "    def closure(x): return x * n\n"
        "    return closure\n"
        "closure = made(2)\n"
        "class Base:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def __eq__(self, other): return vars(self) == vars(other)\n"
        "class Point(Base):\n"
        "    def __init__(self, x): super().__init__(x)\n"
        "@dataclass(frozen=True)\n"
        "class Row:\n"
        "    a: int\n"
        "    b: tuple = (1, 2)\n"
        "class Colour(Enum):\n"
        "    RED = 1\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def even(n): return n == 0 or odd(n - 1)\n"
        "def odd(n): return n != 0 and even(n - 1)\n"
        "def loud(f):\n"
        "    @functools.wraps(f)\n"
        "    def run(*a, **k): return f(*a, **k) * SCALE\n"
        "    return run\n"
        "@loud\n"
        "def decorated(x): return x\n"
        "def point(x): return Point(x)\n"
        "def grown(row): return Row(row.a + 1, row.b)\n"
        "def colour(c): assert c is Colour.RED; return c\n"
        "def applied(f, x): return f(x)\n"
        "lambda_ = lambda x: x + SCALE\n"
        "async def waited(x):\n"
        "    import asyncio\n"
        "    await asyncio.sleep(0)\n"
        "    return x\n"
        "def echo(x): return x\n"
    )
    values: list[Any] = [
        (1, 2),
        {1, 2},
        frozenset("ab"),
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        Decimal("1.10"),
        np.arange(5, dtype=np.int16),
        pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]}),
        b"bytes",
        None,
    ]

    async def scenario() -> None:
        async with office(tmp_path) as here:
            assert await here.call(space["closure"], 4) == 8
            assert await here.call(space["fib"], 10) == 55
            assert await here.call(space["even"], 10) is True
            assert await here.call(space["decorated"], 4) == 12
            assert await here.call(space["lambda_"], 4) == 7
            assert await here.call(space["waited"], 4) == 4
            assert await here.call(space["applied"], lambda x: -x, 4) == -4
            point = await here.call(space["point"], 1)
            assert type(point) is space["Point"]
            assert point == space["Point"](1)
            assert await here.call(space["grown"], space["Row"](1)) == space["Row"](2)
            assert (
                await here.call(space["colour"], space["Colour"].RED)
                is space["Colour"].RED
            )
            for value in values:
                back = await here.call(space["echo"], value)
                assert type(back) is type(value)
                if isinstance(value, pd.DataFrame):
                    pd.testing.assert_frame_equal(back, value)
                else:
                    assert np.all(back == value)

    asyncio.run(scenario())


def test_state_at_module_level_stays_between_calls(tmp_path: Path) -> None:
    counted = run_cell(
        "seen = []\ndef counted(x):\n    seen.append(x)\n    return len(seen)\n"
    )["counted"]

    async def scenario() -> list[int]:
        async with office(tmp_path) as here:
            return [await here.call(counted, x) for x in range(3)]

    assert asyncio.run(scenario()) == [1, 2, 3]


def test_a_large_array_goes_there_and_back_without_copies_in_the_worker(
    tmp_path: Path,
) -> None:
    def turned(array: Any) -> Any:
        array[0] = 7
        return array

    def peak_mb() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    array = np.ones(100_000_000 // 8)

    async def scenario() -> tuple[Any, float]:
        async with office(tmp_path) as here:
            back = await here.call(turned, array)
            return back, await here.call(peak_mb)

    back, worker_mb = asyncio.run(scenario())

    assert back.nbytes == 100_000_000
    assert (back[0], back[-1]) == (7, 1)
    assert back.flags.writeable
    assert worker_mb < 100 * 1.3 + 60  # one copy: it is changed where it was received


def test_many_jobs_in_flight_each_get_their_answer(tmp_path: Path) -> None:
    def square(x: int) -> int:
        return x * x

    async def scenario() -> list[int]:
        async with office(tmp_path, count=2) as here:
            ends = [here.submit(square, x)[1] for x in range(500)]
            return [await value_of(end) for end in ends]

    assert asyncio.run(scenario()) == [x * x for x in range(500)]


def test_arguments_that_need_a_missing_module_say_so(tmp_path: Path) -> None:
    import sys
    import types

    module = types.ModuleType("only_in_the_kernel")
    exec("class Thing: pass", vars(module))  # noqa: S102  a module without a file
    sys.modules["only_in_the_kernel"] = module

    async def scenario() -> None:
        async with office(tmp_path) as here:
            await here.call(print, module.Thing())

    try:
        with pytest.raises(NotPicklable, match="'only_in_the_kernel'"):
            asyncio.run(scenario())
    finally:
        del sys.modules["only_in_the_kernel"]


def test_a_result_that_cannot_travel_is_named(tmp_path: Path) -> None:
    def locked() -> Any:
        import threading

        return {"lock": threading.Lock()}

    async def scenario() -> None:
        async with office(tmp_path) as here:
            await here.call(locked)

    with pytest.raises(NotPicklable, match=r"result\['lock'\]: _thread.lock"):
        asyncio.run(scenario())


def test_a_result_above_the_limit_is_refused_with_its_size(tmp_path: Path) -> None:
    def large() -> Any:
        return bytes(2_000_000)

    async def scenario() -> Any:
        async with office(tmp_path, max_payload_bytes=1_000_000) as here:
            _, end = here.submit(large)
            return (await end)[0]

    outcome = asyncio.run(scenario())

    assert outcome.kind == "too_large"
    assert outcome.size_bytes > 2_000_000
    assert outcome.limit_bytes == 1_000_000


def test_results_of_other_steps_take_the_place_of_references(tmp_path: Path) -> None:
    class Ref:
        def __init__(self, step: str, *path: Any) -> None:
            self.step, self.path = step, path

        def __mpreg_reference__(self) -> "Ref":
            return self

    def joined(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    large = np.ones(100_000)
    parts, steps = pack_call((Ref("a"), [Ref("b", "x")]), {"k": Ref("c")})
    inputs = [pack("inline"), pack({"x": 5}), pack(large)]

    async def scenario(here: Office) -> Any:
        shipped = pack_function(joined)
        here.workers.add_code(shipped.version, "joined", shipped.parts)
        job = Job(
            id=b"j" * 16,
            version=shipped.version,
            function="joined",
            payload=bytes(parts[0]),
            inputs=(bytes(inputs[0][0]), 1, 2),
        )
        ended: Ended = asyncio.get_running_loop().create_future()
        beside = (*inputs[1], *inputs[2])
        here.workers.submit(job, beside, lambda *end: ended.set_result(end))
        return await value_of(ended)

    args, kwargs = run(tmp_path, scenario)

    assert steps == ("a", "b", "c")
    assert args == ("inline", [5])
    np.testing.assert_array_equal(kwargs["k"], large)


def test_json_goes_in_and_comes_out(tmp_path: Path) -> None:
    def total(rows: list[int], factor: int = 1) -> Any:
        return {"total": sum(rows) * factor, "rows": tuple(rows)}

    async def scenario(here: Office) -> bytes:
        shipped = pack_function(total)
        here.workers.add_code(shipped.version, "total", shipped.parts)
        job = Job(
            id=b"j" * 16,
            version=shipped.version,
            function="total",
            payload=pack_json_call(["rows"], {"factor": 2}, ["rows"]),
            inputs=(b"[1, 2]",),
            json=True,
        )
        ended: Ended = asyncio.get_running_loop().create_future()
        here.workers.submit(job, (), lambda *end: ended.set_result(end))
        outcome, _ = await ended
        assert isinstance(outcome, JobDone)
        return outcome.payload

    assert run(tmp_path, scenario) == b'{"total":6,"rows":[1,2]}'
