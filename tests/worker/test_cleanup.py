"""What a function leaves behind does not reach the next one."""

from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.errors import RemoteError
from tests.support.cells import run_cell
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
    "    import locale\n"
    "    handlers = [str(signal.getsignal(n))[:40] for n in (2, 15)]\n"
    "    limit = sys.getrecursionlimit()\n"
    "    return os.getcwd(), said, handlers, limit, locale.setlocale(locale.LC_ALL)\n"
)


@pytest.mark.parametrize(
    "mess",
    [
        "import os; os.chdir('/')",
        "import os; os.close(0); os.close(1); os.close(2); open('/dev/zero')",
        "import sys, io; sys.stdout = io.StringIO(); sys.stderr = None",
        "import sys; sys.stdin = None; sys.stdout.close()",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "import locale; locale.setlocale(locale.LC_ALL, 'C')",
        "import sys; sys.setrecursionlimit(50_000)",
        "import os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
    ],
    ids=[
        "folder",
        "files",
        "streams",
        "input",
        "interrupt",
        "terminate",
        "locale",
        "recursion",
        "no folder",
    ],
)
def test_the_next_call_finds_the_process_as_it_was(tmp_path: Path, mess: str) -> None:
    dirty = cell(f"def f():\n    {mess}\n    import time; time.sleep(0.002)\n")

    async def scenario(here: Office) -> Any:
        before = await here.call(cell(LOOK))
        await here.call(dirty)
        call_id, end = here.submit(cell(LOOK))
        after = await value_of(end)
        assert here.prints_of(call_id) == "still written\nstill heard\n"
        return before, after

    before, after = run(tmp_path, scenario)

    assert before == after
    assert before[0] == str(tmp_path / "scratch")
    assert before[1] is False


@pytest.mark.parametrize("slots", [1, 2])
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
    tmp_path: Path, raised: str, kind: str, slots: int
) -> None:
    f = cell(f"import asyncio\n{kind} f():\n    raise {raised}\n")
    pid = cell("import os\ndef f(): return os.getpid()")

    async def scenario(here: Office) -> bool:
        before = await here.call(pid)
        with pytest.raises(RemoteError):
            await here.call(f)
        return bool(await here.call(pid) == before)

    assert run(tmp_path, scenario, slots=slots)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_copy_that_a_function_forks_does_not_answer(
    tmp_path: Path, slots: int
) -> None:
    forking = cell("import os\ndef f(): return os.fork() != 0\n")

    async def scenario(here: Office) -> list[Any]:
        return [await here.call(forking) for _ in range(3)]

    assert run(tmp_path, scenario, slots=slots) == [True] * 3


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
