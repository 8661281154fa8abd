"""What a function leaves behind does not reach the next one."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.errors import RemoteError
from mpreg_nb.node.process_pool import ProcessPool
from mpreg_nb.serialize.pickle import Initializer, apply
from mpreg_nb.worker.cleanup import MOST_THREADS, SLOW_CHECKS_EVERY_NS
from tests.support.cells import run_cell
from tests.support.worker_functions import pid, sleep
from tests.support.worker_pool_contract import PoolAtWork, pool_at_work
from tests.support.workers import Office, run, value_of

pytestmark = pytest.mark.live


def cell(source: str) -> Any:
    return run_cell(source)["f"]


LOOK = (
    "def f():\n"
    "    import os, signal, sys, threading\n"
    "    print('still heard')\n"
    "    os.write(2, b'still written\\n')\n"
    "    try:\n        input()\n        said = True\n"
    "    except EOFError:\n        said = False\n"
    "    import gc, locale, resource, time\n"
    "    umask = os.umask(0o22)\n"
    "    os.umask(umask)\n"
    "    time.sleep(0.002)  # what goes past Python is read while a call runs\n"
    "    return dict(\n"
    "        folder=os.getcwd(),\n"
    "        said=said,\n"
    "        umask=umask,\n"
    "        handlers=[str(signal.getsignal(n))[:40] for n in (2, 10, 14, 15, 17)],\n"
    "        blocked=signal.pthread_sigmask(signal.SIG_BLOCK, ()),\n"
    "        alarm=signal.getitimer(signal.ITIMER_REAL),\n"
    "        recursion=sys.getrecursionlimit(),\n"
    "        locale=locale.setlocale(locale.LC_ALL),\n"
    "        variables=dict(os.environ),\n"
    "        zone=time.tzname,\n"
    "        limits=[resource.getrlimit(n) for n in range(16)],\n"
    "        priority=os.getpriority(os.PRIO_PROCESS, 0),\n"
    "        cores=os.sched_getaffinity(0),\n"
    "        group=os.getpgrp() == os.getpid(),\n"
    "        collects=gc.isenabled(),\n"
    "        switch_s=sys.getswitchinterval(),\n"
    "        worker=os.getpid(),\n"
    "    )\n"
)

NOFILE = "import resource as r; n = r.RLIMIT_NOFILE"

MESSES = {
    "folder": "os.chdir('/')",
    "no folder": "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
    "files": "os.close(0); os.close(1); os.close(2); open('/dev/zero')",
    "streams": "import io; sys.stdout = io.StringIO(); sys.stderr = None",
    "input": "sys.stdin = None; sys.stdout.close()",
    "interrupt": "signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "terminate": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "handlers": "[signal.signal(n, lambda *_: None) for n in (10, 14, 17)]",
    "blocked signals": "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
    "alarm": "signal.alarm(60)",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "recursion": "sys.setrecursionlimit(50_000)",
    "variable": "os.environ['MESS'] = '1'",
    "removed variables": "os.environ.clear()",
    "replaced variables": "os.environ = {'MESS': '1'}",
    "time zone": "import time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "umask": "os.umask(0o777)",
    "limit": f"{NOFILE}; r.setrlimit(n, (50, r.getrlimit(n)[1]))",
    "hard limit": f"{NOFILE}; r.setrlimit(n, (50, 60))",
    "cores": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "collector": "import gc; gc.disable()",
    "switching": "sys.setswitchinterval(1)",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolAtWork]:
    scratch = tmp_path_factory.mktemp("scratch")
    with pool_at_work(lambda *on: ProcessPool(1, 1, scratch, *on)) as at_work:
        yield at_work


def dirty(mess: str, seconds: float = 0) -> Any:
    return cell(
        "def f():\n    import os, signal, sys, time\n"
        f"    {mess}\n    time.sleep({seconds})\n"
    )


@pytest.mark.parametrize("seconds", [0, 0.002], ids=["short", "long"])
@pytest.mark.parametrize("mess", MESSES.values(), ids=list(MESSES))
def test_the_next_call_finds_the_process_as_it_was(
    here: PoolAtWork, mess: str, seconds: float
) -> None:
    async def scenario() -> Any:
        before = await here.call(cell(LOOK))
        await here.call(dirty(mess, seconds))
        call_id, end = here.submit(cell(LOOK))
        after = await value_of(end)
        return before, after, here.prints_of(call_id)

    before, after, printed = here.run(scenario())

    if mess == MESSES["hard limit"]:  # only root may raise it again
        before["worker"] = after["worker"]
    assert before == after
    assert before["said"] is False
    assert sorted(printed.splitlines()) == ["still heard", "still written"]


def test_a_short_function_that_ran_before_is_cleaned_up_after_too(
    here: PoolAtWork,
) -> None:
    limit = cell("import resource as r\ndef f(): return r.getrlimit(r.RLIMIT_NOFILE)")
    lower = cell(
        "import resource as r\n"
        "def f(count): count and r.setrlimit(r.RLIMIT_NOFILE, (count, count))\n"
    )

    async def scenario() -> list[Any]:
        before = await here.call(limit)
        await here.call(lower, 0)
        await here.call(sleep, SLOW_CHECKS_EVERY_NS / 1e9)
        await here.call(lower, 0)
        await asyncio.sleep(SLOW_CHECKS_EVERY_NS / 1e9)
        await here.call(lower, 50)
        return [before, await here.call(limit)]

    before, after = here.run(scenario())

    assert before == after


def test_a_worker_that_cannot_be_restored_is_replaced(here: PoolAtWork) -> None:
    crowd = cell(
        "import threading\n"
        "def f():\n"
        "    wait = threading.Event().wait\n"
        f"    for _ in range({MOST_THREADS + 1}):\n"
        "        threading.Thread(target=wait, daemon=True).start()\n"
    )

    async def scenario() -> tuple[int, list[int], Any]:
        before = await here.call(pid)
        _, crowded = here.submit(crowd)
        behind = [here.submit(pid)[1] for _ in range(20)]
        return before, [await value_of(end) for end in behind], await value_of(crowded)

    here.events.clear()
    deaths = here.workers.statistics().deaths
    before, after, value = here.run(scenario())

    assert value is None
    assert set(after) == set(after[:1]) != {before}
    assert here.events == [
        ("worker replaced", f"functions left {MOST_THREADS + 1} threads")
    ]
    assert here.workers.statistics().deaths == deaths


def test_workers_with_several_slots_are_cleaned_up_once_they_are_idle(
    tmp_path: Path,
) -> None:
    messes = [MESSES[k] for k in ("variable", "umask", "limit", "folder", "locale")]

    async def scenario(here: Office) -> tuple[Any, Any]:
        before = await here.call(cell(LOOK))
        await asyncio.gather(*(here.call(dirty(mess)) for mess in messes))
        return before, await here.call(cell(LOOK))

    before, after = run(tmp_path, scenario, slots=2)

    assert before == after


def test_a_variable_stays_while_another_call_of_the_worker_runs(tmp_path: Path) -> None:
    setting = cell(
        "import os, time\n"
        "def f(gate):\n"
        "    os.environ['MESS'] = '1'\n"
        "    print('set', flush=True)\n"
        "    while not os.path.exists(gate): time.sleep(0.01)\n"
        "    return os.environ.get('MESS')\n"
    )
    look = cell("import os\ndef f(): return os.environ.get('MESS')")

    async def scenario(here: Office) -> list[Any]:
        gate = tmp_path / "gate"
        call_id, end = here.submit(setting, str(gate))
        await here.until(lambda: here.prints_of(call_id) != "")
        seen = [await here.call(look)]
        gate.touch()
        return [*seen, await value_of(end), await here.call(look)]

    assert run(tmp_path, scenario, slots=2) == ["1", "1", None]


def test_a_worker_that_keeps_names_keeps_the_environment_too(tmp_path: Path) -> None:
    async def scenario(here: Office) -> tuple[Any, Any]:
        for mess in ("variable", "umask", "interrupt", "files"):
            await here.call(dirty(MESSES[mess]))
        call_id, end = here.submit(cell(LOOK))
        after = await value_of(end)
        return after, here.prints_of(call_id)

    after, printed = run(tmp_path, scenario, keeps=True)

    assert (after["variables"]["MESS"], after["umask"]) == ("1", 0o777)
    assert "default_int_handler" not in after["handlers"][0]
    assert "SIG_IGN" not in after["handlers"][0]
    assert sorted(printed.splitlines()) == ["still heard", "still written"]


LEFT = {
    "fork": "child = os.fork() or time.sleep(600)",
    "session": "child = os.fork() or (os.setsid(), time.sleep(600))",
    "process": (
        "import multiprocessing as m; p = m.get_context('fork').Process("
        "target=time.sleep, args=(600,)); p.start(); child = p.pid"
    ),
    "ended": "child = os.fork() or os._exit(0)",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=list(LEFT))
def test_a_copy_that_a_function_forks_and_leaves_is_gone_with_the_call(
    here: PoolAtWork, left: str
) -> None:
    child = here.run(
        here.call(cell(f"import os, time\ndef f():\n    {left}\n    return child"))
    )

    assert not Path(f"/proc/{child}").exists()


def test_processes_that_a_module_holds_stay_for_the_next_call(here: PoolAtWork) -> None:
    pooled = cell(
        "import multiprocessing, os\n"
        "pools = []\n"
        "def f():\n"
        "    if not pools:\n"
        "        pools.append(multiprocessing.get_context('fork').Pool(1))\n"
        "    return pools[0].apply(os.getpid)\n"
    )

    async def scenario() -> set[int]:
        return {await here.call(pooled) for _ in range(3)}

    assert len(here.run(scenario())) == 1


def test_an_initializer_sets_variables_for_the_calls_of_its_executor_alone(
    here: PoolAtWork,
) -> None:
    def prepare() -> None:
        import os

        os.environ["MESS"] = "prepared"
        os.environ.pop("HOME", None)

    def look() -> list[str | None]:
        import os

        return [os.environ.get(name) for name in ("MESS", "HOME")]

    initializer = Initializer(prepare, ())

    async def scenario() -> list[Any]:
        with_it = [await here.call(apply, look, (), {}, initializer) for _ in range(2)]
        return [*with_it, await here.call(look)]

    first, second, without = here.run(scenario())

    assert first == second == ["prepared", None]
    assert without == [None, os.environ["HOME"]]


@pytest.fixture(scope="module", params=[1, 2], ids=["one slot", "two slots"])
def slots_at_work(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PoolAtWork]:
    scratch, slots = tmp_path_factory.mktemp("scratch"), request.param
    with pool_at_work(lambda *on: ProcessPool(1, slots, scratch, *on)) as at_work:
        yield at_work


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    "raised",
    [
        "SystemExit(3)",
        "KeyboardInterrupt()",
        "GeneratorExit()",
        "asyncio.CancelledError()",
        "type('Own', (BaseException,), {})()",
    ],
)
def test_no_exception_of_a_function_ends_the_worker(
    slots_at_work: PoolAtWork, raised: str, kind: str
) -> None:
    f = cell(f"import asyncio\n{kind} f():\n    raise {raised}\n")

    async def scenario() -> bool:
        before = await slots_at_work.call(pid)
        with pytest.raises(RemoteError):
            await slots_at_work.call(f)
        return bool(await slots_at_work.call(pid) == before)

    assert slots_at_work.run(scenario())


def test_a_copy_that_a_function_forks_does_not_answer(
    slots_at_work: PoolAtWork,
) -> None:
    forking = cell("import os\ndef f(): return os.fork() != 0\n")

    async def scenario() -> list[Any]:
        return [await slots_at_work.call(forking) for _ in range(3)]

    assert slots_at_work.run(scenario()) == [True] * 3


def test_a_pool_of_processes_works_inside_a_function(tmp_path: Path) -> None:
    f = cell(
        "import multiprocessing\n"
        "def f():\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        return pool.map(abs, [-1, 2])\n"
    )

    async def scenario(here: Office) -> Any:
        return await here.call(f)

    assert run(tmp_path, scenario) == [1, 2]


def test_hundreds_of_threads_left_running_harm_nobody(tmp_path: Path) -> None:
    f = cell(
        "import threading, time\n"
        "def f():\n"
        "    for _ in range(300):\n"
        "        threading.Thread(target=time.sleep, args=(30,)).start()\n"
        "    return threading.active_count()\n"
    )

    async def scenario(here: Office) -> Any:
        return await here.call(f), await here.call(cell("def f(): return 1"))

    assert run(tmp_path, scenario)[1] == 1


def test_the_traceback_of_a_worker_is_that_of_the_cell(tmp_path: Path) -> None:
    f = cell("def helper(x):\n    return 1 / x\ndef f():\n    return helper(0)\n")

    async def scenario(here: Office) -> None:
        await here.call(f)

    with pytest.raises(ZeroDivisionError) as caught:
        run(tmp_path, scenario)

    error: Any = caught.value
    assert error.remote_traceback.count("File ") == 2
    assert "    return 1 / x\n           ~~^~~\n" in error.remote_traceback
