"""Which frames of an error a cell shows."""

import asyncio
import concurrent.futures
from types import TracebackType

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mpreg_nb.boundary import without_ours
from mpreg_nb.client.future import Future
from mpreg_nb.errors import MpregError, NotPicklable, WorkflowFailed
from mpreg_nb.notebook.cell_body import run_body
from mpreg_nb.notebook.tracebacks import MOST_PARTS, show_error
from tests.support.shell import RunCell


def names(traceback: TracebackType | None) -> list[str]:
    found = []
    while traceback is not None:
        found.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return found


def raised_in_user_code() -> None:
    raise MpregError("from the user's code")


def caught(cause: BaseException | None = None) -> MpregError:
    """Return an error as the result of a future raises it."""
    future: Future[object] = Future(lambda: None)
    try:
        raised_in_user_code()
    except MpregError as error:
        error.__cause__ = cause
        future.set_exception(error)
    with pytest.raises(MpregError) as result:
        future.result()
    return result.value


def test_our_frames_and_those_that_wait_for_us_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_DEBUG", "1")  # else they are cut when it is raised
    traceback = caught().__traceback__

    assert {"result", "_Future__get_result"} & set(names(traceback))
    assert names(without_ours(traceback)) == ["caught", "caught", "raised_in_user_code"]


def test_frames_of_the_standard_library_that_the_user_called_stay() -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_exception(ValueError())

    with pytest.raises(ValueError) as result:  # noqa: PT011 - any will do
        future.result()

    assert "result" in names(without_ours(result.value.__traceback__))


async def awaited() -> None:
    future: Future[None] = Future(lambda: None)
    try:
        raised_in_user_code()
    except MpregError as error:
        future.set_exception(error)
    await asyncio.gather(future)


def test_what_the_library_does_to_await_ours_is_left_out() -> None:
    with pytest.raises(MpregError) as result:
        asyncio.run(awaited())

    kept = names(without_ours(result.value.__traceback__))
    assert kept[-3:] == ["awaited", "awaited", "raised_in_user_code"]


def test_in_a_group_of_others_ours_come_without_our_frames(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(
        "import asyncio\n"
        "from mpreg_nb.client.future import Future\n"
        "async def main():\n"
        "    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(asyncio.wait_for(Future(lambda: None), 0.01))\n"
        "asyncio.run(main())"
    )

    out = capsys.readouterr().err
    assert "ExceptionGroup: unhandled errors" in out
    assert "TimeoutError" in out
    assert "mpreg_nb/" not in out


def test_code_of_the_user_that_ours_calls_stays() -> None:
    with pytest.raises(ZeroDivisionError) as result:
        run_body("def inner():\n    1 / 0\ninner()", "<cell of the user>", False)

    kept = names(without_ours(result.value.__traceback__))
    assert kept[-2:] == ["<module>", "inner"]
    assert "run_body" not in kept


def test_how_we_found_out_is_not_shown_but_what_user_code_raised_is(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_reason, users_reason = TypeError("ours"), TypeError("of the user")
    users_reason.__traceback__ = caught().__traceback__
    for reason in (plain_reason, users_reason):
        error = NotPicklable("lock", "it is a lock")
        error.__cause__ = reason
        show_error(shell, type(error), error, None)
        assert error.__cause__ is reason

    out = capsys.readouterr().out
    assert out.count("NotPicklable: lock cannot be pickled") == 2
    assert "TypeError: ours" not in out
    assert "TypeError: of the user" in out


def test_of_many_failed_steps_some_are_shown_and_the_rest_is_counted(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: dict[str, Exception] = {
        f"s{number}": caught() for number in range(MOST_PARTS + 2)
    }
    error = WorkflowFailed.of("report", steps, done=(), skipped=())

    show_error(shell, type(error), error, None)

    out = capsys.readouterr().out
    assert out.count("\nMpregError: from the user's code") == MOST_PARTS
    assert "Step 's0':" in out
    assert "… and 2 more failed steps" in out


def test_the_last_error_is_shown_again_in_the_same_way(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(
        "import mpreg_nb as mp\n"
        "from mpreg_nb.errors import WorkflowFailed\n"
        "steps = {'s0': ValueError('of the step')}\n"
        "raise WorkflowFailed.of('report', steps, done=(), skipped=())"
    )
    first = capsys.readouterr().out
    run_cell("%tb")

    assert "Step 's0':" in first
    assert "ValueError: of the step" in first
    assert capsys.readouterr().out == first


def test_what_ends_a_wait_from_outside_shows_none_of_our_frames(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell("from mpreg_nb.client.future import Future")

    run_cell("Future(lambda: None).result(timeout=0)")
    ours = capsys.readouterr().out
    run_cell("import concurrent.futures as c\nc.Future().result(timeout=0)")
    foreign = capsys.readouterr().out

    assert "TimeoutError" in ours
    assert "Future(lambda: None).result(timeout=0)" in ours
    assert "mpreg_nb/" not in ours
    assert "_base.py" not in ours
    assert "_base.py" in foreign


def test_a_handler_of_the_user_comes_first(
    shell: InteractiveShell, run_cell: RunCell
) -> None:
    heard: list[BaseException] = []
    shell.set_custom_exc(  # type: ignore[no-untyped-call]
        (MpregError,), lambda shell, kind, error, *_, **__: heard.append(error)
    )

    run_cell("from mpreg_nb.errors import MpregError\nraise MpregError('x')")
    shell.set_custom_exc((), None)  # type: ignore[no-untyped-call]

    assert [str(error) for error in heard] == ["x"]


def test_the_error_of_a_write_to_a_read_only_result_names_the_cure(
    shell: InteractiveShell, run_cell: RunCell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(
        "import numpy as np\n"
        "result = np.zeros(3)\n"
        "result.flags.writeable = False\n"
        "result[0] = 1"
    )
    run_cell("%tb")
    run_cell("raise ValueError('of the user')")

    out = capsys.readouterr().out
    assert out.count("Copy what you change: x = np.array(x)") == 2


def test_the_shell_is_left_as_it_was(shell: InteractiveShell) -> None:
    shell.run_line_magic("unload_ext", "mpreg_nb")

    assert shell.showtraceback == InteractiveShell.showtraceback.__get__(shell)

    shell.run_line_magic("load_ext", "mpreg_nb")
