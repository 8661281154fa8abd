"""What functions print reaches the call that they run for."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.output.capture import LINES_PER_S
from tests.support.cells import run_cell
from tests.support.workers import Crash, Office, run, value_of

pytestmark = pytest.mark.live


def cell(source: str) -> Any:
    return run_cell(source)["f"]


def test_prints_come_before_the_answer_and_on_their_stream(tmp_path: Path) -> None:
    f = cell(
        "import sys, logging, warnings\n"
        "def f():\n"
        "    print('one')\n"
        "    print('two', file=sys.stderr)\n"
        "    sys.stdout.write('thr'); sys.stdout.write('ee\\n')\n"
        "    sys.stdout.buffer.write('ü\\n'.encode())\n"
        "    logging.getLogger('lab').warning('careful')\n"
        "    warnings.warn('old')\n"
        "    print('odd \\ud800', end='')\n"
        "    return sys.stdout.isatty(), sys.stdout.fileno()\n"
    )

    async def scenario(here: Office) -> list[tuple[str, str]]:
        call_id, end = here.submit(f)
        assert await value_of(end) == (False, 1)
        assert all(p.id == call_id for p in here.printed)
        return [(p.stream, p.text) for p in here.printed]

    printed = run(tmp_path, scenario)

    assert printed[0] == ("stdout", "one\n")
    assert printed[1] == ("stderr", "two\n")
    assert printed[2] == ("stdout", "three\nü\n")
    assert printed[3][0] == "stderr"
    assert "careful\n" in printed[3][1]
    assert "UserWarning: old" in printed[3][1]
    assert printed[4] == ("stdout", r"odd \ud800")


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("kind", ["def f", "async def f"])
def test_prints_come_while_the_function_runs(
    tmp_path: Path, slots: int, kind: str
) -> None:
    f = cell(
        f"import time\n{kind}():\n    print('begun')\n    time.sleep(1)\n    return 1\n"
    )

    async def scenario(here: Office) -> float:
        await here.call(print)
        begun = time.monotonic()
        _, end = here.submit(f)
        await here.until(lambda: any("begun" in p.text for p in here.printed))
        took = time.monotonic() - begun
        await end
        return took

    assert run(tmp_path, scenario, slots=slots) < 0.5


def test_a_line_that_is_being_written_is_shown_in_whole(tmp_path: Path) -> None:
    f = cell(
        "import time\n"
        "def f():\n"
        "    for part in 'abc':\n"
        "        print('done\\npart', part, end=' ')\n"
        "        time.sleep(0.15)\n"
        "    time.sleep(0.3)\n"
    )

    async def scenario(here: Office) -> list[str]:
        await here.call(f)
        return [p.text for p in here.printed]

    texts = run(tmp_path, scenario)

    assert "".join(texts) == "done\npart a done\npart b done\npart c "
    assert texts[0] == "done\n"


def test_calls_at_the_same_time_keep_their_prints_apart(tmp_path: Path) -> None:
    sync = cell(
        "import time\n"
        "def f(name):\n"
        "    for _ in range(5):\n        print(name)\n        time.sleep(0.01)\n"
    )
    waiting = cell(
        "import asyncio\n"
        "async def f(name):\n"
        "    for _ in range(5):\n"
        "        print(name)\n"
        "        await asyncio.sleep(0.01)\n"
    )

    async def scenario(here: Office) -> list[str]:
        submitted = [here.submit(f, n) for n, f in enumerate((sync, waiting) * 2)]
        for _, end in submitted:
            await value_of(end)
        return [here.prints_of(call_id) for call_id, _ in submitted]

    assert run(tmp_path, scenario, slots=4) == [f"{n}\n" * 5 for n in range(4)]


def test_of_a_flood_what_is_cut_is_counted_to_the_line(tmp_path: Path) -> None:
    f = cell("def f():\n    for n in range(100_000):\n        print('line', n)\n")

    async def scenario(here: Office) -> tuple[str, int, float]:
        began_s = time.monotonic()
        call_id, end = here.submit(f)
        await value_of(end)
        took_s = time.monotonic() - began_s
        cut = sum(p.lines_cut for p in here.printed)
        return here.prints_of(call_id), cut, took_s

    text, cut, took_s = run(tmp_path, scenario)

    assert text.startswith("line 0\nline 1\n")
    assert text.count("\n") + cut == 100_000
    assert text.count("\n") <= LINES_PER_S * (took_s + 1)


def test_of_a_long_text_without_lines_what_is_cut_is_counted(tmp_path: Path) -> None:
    f = cell("def f():\n    for _ in range(4):\n        print('x' * 2_000_000)\n")

    async def scenario(here: Office) -> tuple[str, int, int]:
        call_id, end = here.submit(f)
        await value_of(end)
        lines_cut = sum(p.lines_cut for p in here.printed)
        return (
            here.prints_of(call_id),
            lines_cut,
            sum(p.characters_cut for p in here.printed),
        )

    text, lines_cut, characters_cut = run(tmp_path, scenario)

    assert text.count("\n") + lines_cut == 4
    assert text.count("x") + characters_cut >= 8_000_000


def test_a_program_that_floods_is_cut_and_does_not_hold_up_its_node(
    tmp_path: Path,
) -> None:
    f = cell(
        "import subprocess\n"
        "def f():\n"
        "    subprocess.run('yes | head -n 5000000', shell=True)\n"
    )

    async def scenario(here: Office) -> tuple[int, int, float]:
        began_s = time.process_time()
        call_id, end = here.submit(f)
        await value_of(end)
        took_s = time.process_time() - began_s
        cut = sum(p.lines_cut for p in here.printed)
        return here.prints_of(call_id).count("\n"), cut, took_s

    shown, cut, took_s = run(tmp_path, scenario)

    assert shown + cut == 5_000_000
    assert shown < 2_000_000
    assert took_s < 0.5


def test_what_goes_past_python_belongs_to_the_call_too(tmp_path: Path) -> None:
    f = cell(
        "import os, subprocess\n"
        "def f():\n"
        "    os.write(1, b'written\\n')\n"
        "    subprocess.run(['echo', 'from a program'])\n"
    )

    async def scenario(here: Office) -> str:
        call_id, end = here.submit(f)
        await value_of(end)
        return here.prints_of(call_id)

    assert run(tmp_path, scenario) == "written\nfrom a program\n"


def test_what_a_thread_prints_after_its_call_is_in_the_log_of_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    f = cell(
        "import pathlib, threading, time\n"
        "def f(go):\n"
        "    def later():\n"
        "        while not pathlib.Path(go).exists():\n"
        "            time.sleep(0.002)\n"
        "        print('late')\n"
        "    threading.Thread(target=later).start()\n"
    )

    async def scenario(here: Office) -> None:
        loop, logged = asyncio.get_running_loop(), asyncio.Event()

        class Told(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "late" in record.getMessage():
                    loop.call_soon(logged.set)

        told, logger = Told(), logging.getLogger("mpreg_nb.node")
        logger.addHandler(told)
        try:
            await here.call(f, str(tmp_path / "go"))
            (tmp_path / "go").touch()
            await asyncio.wait_for(logged.wait(), 60)
        finally:
            logger.removeHandler(told)

    with caplog.at_level(logging.INFO, "mpreg_nb.node"):
        run(tmp_path, scenario)

    assert "printed outside of a call: late" in caplog.text


def test_prints_are_not_lost_in_a_crash(tmp_path: Path) -> None:
    f = cell(
        "import os\n"
        "def f():\n"
        "    for n in range(30):\n        print('step', n)\n"
        "    os._exit(1)\n"
    )

    async def scenario(here: Office) -> tuple[str, ...]:
        with pytest.raises(Crash) as caught:
            await here.call(f)
        return caught.value.crashed.last_lines

    assert run(tmp_path, scenario)[-2:] == ("step 28", "step 29")


def test_input_finds_an_end_of_file(tmp_path: Path) -> None:
    f = cell("def f(): return input('name? ')")

    async def scenario(here: Office) -> None:
        await here.call(f)

    with pytest.raises(EOFError):
        run(tmp_path, scenario)
