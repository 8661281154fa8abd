"""A function that waits for the cluster is in nobody's way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.node import process_pool
from mpreg_nb.protocol.worker import JobFailed
from tests.support.cells import run_cell
from tests.support.files import wait_for_file
from tests.support.worker_functions import echo, wait_elsewhere, wait_elsewhere_async
from tests.support.workers import Office, links, run, value_of

pytestmark = pytest.mark.live


def begins(here: Office, name: str) -> Any:
    return here.until(lambda: any(name in p.text for p in here.printed))


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("function", [wait_elsewhere, wait_elsewhere_async])
def test_others_run_while_all_slots_wait(
    tmp_path: Path, slots: int, function: Any
) -> None:
    async def scenario(here: Office) -> list[Any]:
        await here.call(echo, 0)
        gate = tmp_path / "gate"
        waiting = [here.submit(function, str(gate), n)[1] for n in range(slots)]
        for number in range(slots):
            await begins(here, f"waits {number}\n")
        values = [await here.call(echo, 5)]
        gate.touch()
        return values + [await value_of(end) for end in waiting]

    assert run(tmp_path, scenario, slots=slots) == [5, *range(slots)]


def test_calls_of_calls_of_calls_run_on_one_worker(tmp_path: Path) -> None:
    async def scenario(here: Office) -> list[Any]:
        gates = [tmp_path / f"gate{n}" for n in range(5)]
        ends = []
        for number, gate in enumerate(gates):
            ends.append(here.submit(wait_elsewhere, str(gate), number)[1])
            await begins(here, f"waits {number}\n")
        values = []
        for gate, end in reversed(list(zip(gates, ends, strict=True))):
            gate.touch()
            values.append(await value_of(end))
        return values

    assert run(tmp_path, scenario) == [4, 3, 2, 1, 0]


def test_jobs_handed_ahead_are_called_back_from_a_worker_that_waits(
    tmp_path: Path,
) -> None:
    # One function for both, so that it is known to be short and handed ahead.
    work = run_cell(
        "def work(gate):\n"
        "    if not gate: return 'done'\n"
        "    import os, time\n"
        "    from mpreg_nb.call_context import BlockedOnCluster\n"
        "    with BlockedOnCluster():\n"
        "        while not os.path.exists(gate): time.sleep(0.01)\n"
        "    return 'waited'\n"
    )["work"]

    async def scenario(here: Office) -> list[Any]:
        for _ in range(5):
            await here.call(work, "")
        gate = tmp_path / "gate"
        first = here.submit(work, str(gate))[1]
        behind = [here.submit(work, "")[1] for _ in range(20)]
        values = [await value_of(end) for end in behind]
        gate.touch()
        return [*values, await value_of(first)]

    assert run(tmp_path, scenario) == ["done"] * 20 + ["waited"]


def test_a_call_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    async def scenario(here: Office) -> Any:
        call_id, end = here.submit(wait_elsewhere, str(tmp_path / "never"), 0)
        await begins(here, "waits 0\n")
        here.workers.cancel(call_id)
        outcome, _ = await end
        assert isinstance(outcome, JobFailed)
        return outcome.kind, await here.call(echo, 1), here.workers.running

    assert run(tmp_path, scenario) == ("cancelled", 1, 0)


def test_lent_workers_go_when_they_are_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "LENT_IDLE_S", 0.1)

    async def scenario(here: Office) -> tuple[int, int]:
        gate = tmp_path / "gate"
        _, end = here.submit(wait_elsewhere, str(gate), 0)
        await begins(here, "waits 0\n")
        await here.call(echo, 1)
        most = len(links(here))
        gate.touch()
        await end
        await asyncio.sleep(0.5)
        return most, len(links(here))

    assert run(tmp_path, scenario) == (2, 1)


def test_what_others_wait_for_is_refused_when_no_more_workers_can_be_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "LENT", 1)

    async def scenario(here: Office) -> tuple[Any, Any]:
        gate = tmp_path / "gate"
        ends = []
        for number in range(2):
            ends.append(here.submit(wait_elsewhere, str(gate), number)[1])
            await begins(here, f"waits {number}\n")
        _, patient = here.submit(echo, 1)
        here.depth = 1
        refused, _ = await here.submit(echo, 2)[1]
        gate.touch()
        for end in ends:
            await end
        return refused, await value_of(patient)

    refused, value = run(tmp_path, scenario)

    assert isinstance(refused, JobFailed)
    assert (refused.kind, refused.executed) == ("overloaded", "no")
    assert value == 1


def test_what_others_wait_for_goes_first(tmp_path: Path) -> None:
    async def scenario(here: Office) -> list[str]:
        order: list[str] = []
        gate = tmp_path / "gate"
        _, first = here.submit(wait_for_file, str(tmp_path / "begun"), str(gate))

        async def noted(depth: int) -> None:
            here.depth = depth
            _, end = here.submit(echo, depth)
            await end
            order.append(f"{depth}")

        ends = [asyncio.ensure_future(noted(depth)) for depth in (0, 1, 0, 2, 1)]
        await asyncio.sleep(0)  # all of them are in line
        gate.touch()
        await asyncio.gather(first, *ends)
        return order

    assert run(tmp_path, scenario) == ["2", "1", "1", "0", "0"]


def test_functions_know_their_node_and_other_processes_have_none(
    tmp_path: Path,
) -> None:
    from mpreg_nb.call_context import home

    async def scenario(here: Office) -> Any:
        return await here.call(where)

    def where() -> Any:
        from mpreg_nb.call_context import home

        found = home()
        return None if found is None else (found.url, found.token, repr(found))

    assert run(tmp_path, scenario) is None
    assert run(tmp_path, scenario, home=("ws://n1", "secret")) == (
        "ws://n1",
        "secret",
        "Home(url='ws://n1', ca='')",
    )
    assert home() is None


def test_a_job_that_is_called_back_is_told_to_wait_and_to_begin_again(
    tmp_path: Path,
) -> None:
    back: list[bytes] = []
    work = run_cell(
        "def work(gate):\n"
        "    if not gate: return 'done'\n"
        "    import os, time\n"
        "    from mpreg_nb.call_context import BlockedOnCluster\n"
        "    with BlockedOnCluster():\n"
        "        while not os.path.exists(gate): time.sleep(0.01)\n"
        "    return 'waited'\n"
    )["work"]

    async def scenario(here: Office) -> list[bytes]:
        while not back:  # on a busy machine it may not be known to be short
            await here.call(work, "")
            gate = tmp_path / "gate"
            gate.unlink(missing_ok=True)
            first = here.submit(work, str(gate))[1]
            behind = [here.submit(work, "")[1] for _ in range(20)]
            for end in behind:
                await value_of(end)
            gate.touch()
            await value_of(first)
        return here.started

    started = run(tmp_path, scenario, on_given_back=back.append)

    again = [call_id for call_id in set(started) if started.count(call_id) > 1]
    assert sorted(again) == sorted(set(back))
    assert len(started) == len(set(started)) + len(back)
