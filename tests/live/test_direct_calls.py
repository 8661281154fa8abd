"""Calls that go straight to a worker of this machine mean what others mean."""

import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import CallTimeout, WorkerCrashed
from tests.support.direct_calls import FEW, MANY, become_direct, messages_of
from tests.support.files import until_exists, wait_for_file
from tests.support.settings import default_settings
from tests.support.until import until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    with default_settings():
        yield


@pytest.fixture(scope="module", params=[1, 2], ids=["one slot", "two slots"])
def cluster(request: pytest.FixtureRequest) -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True, slots=request.param) as cluster:
        yield cluster


@pytest.fixture
def own() -> Iterator[mp.Cluster]:
    """A cluster whose workers come and go in the test."""
    with mp.up(1, fresh=True, slots=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def other(cluster: mp.Cluster) -> Iterator[mp.Cluster]:
    """Another client of the same node."""
    with mp.connect(cluster.urls[0]) as other:
        yield other


def double(number: int) -> int:
    return 2 * number


def work(number: int) -> str:
    """Say in which worker it ran."""

    return f"{number} {os.getpid()}"


def fail(number: int) -> None:
    raise KeyError(number)


def note(path: str, number: int) -> int:
    """Leave a line for each time that it runs."""

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return number


def test_repeated_calls_go_straight_to_a_worker(cluster: mp.Cluster) -> None:
    become_direct(cluster, double, 1)

    def calls() -> None:
        assert [cluster.call(double, n) for n in range(MANY)] == [
            2 * n for n in range(MANY)
        ]

    assert messages_of(cluster, calls) < FEW


def test_many_calls_at_once_keep_their_results_apart(cluster: mp.Cluster) -> None:
    become_direct(cluster, double, 1)

    futures = [cluster.submit(double, n) for n in range(2000)]

    assert [future.result(30) for future in futures] == [2 * n for n in range(2000)]


def test_calls_that_never_pause_come_to_go_straight_to_a_worker(
    cluster: mp.Cluster,
) -> None:
    def triple(number: int) -> int:
        return 3 * number

    under_way: deque[tuple[int, mp.Future[int]]] = deque()
    numbers = itertools.count()

    def calls() -> None:
        for number in itertools.islice(numbers, 400):
            under_way.append((number, cluster.submit(triple, number)))
            if len(under_way) > 32:
                asked, future = under_way.popleft()
                assert future.result(30) == 3 * asked

    until(lambda: messages_of(cluster, calls) < 100)

    assert [future.result(30) for _, future in under_way] == [
        3 * number for number, _ in under_way
    ]


def test_the_setting_sends_every_call_through_the_node(cluster: mp.Cluster) -> None:
    become_direct(cluster, double, 1)
    mp.config("direct_calls", False)
    try:

        def calls() -> None:
            for number in range(MANY):
                assert cluster.call(double, number) == 2 * number

        assert messages_of(cluster, calls) >= MANY
    finally:
        mp.config("direct_calls", True)


def test_every_call_is_counted_with_its_time_and_its_errors(
    cluster: mp.Cluster,
) -> None:
    named = cluster.register(double, name="counted")
    failing = cluster.register(fail, name="counted-fail")

    for number in range(MANY):
        named.call(number)
        with pytest.raises(KeyError):
            failing.call(number)

    frame = cluster.functions().set_index("function")
    counted = frame.loc[["counted", "counted-fail"], ["calls", "errors"]]
    assert counted.to_numpy().tolist() == [[MANY, 0], [MANY, MANY]]


def test_prints_come_before_the_result(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(number: int) -> int:
        print("said", number)  # noqa: T201
        return number

    for number in range(8):
        cluster.call(speak, number)
        assert f"said {number}" in capsys.readouterr().out


@pytest.mark.parametrize("cluster", [1], indirect=True)  # else it could be of any
def test_prints_past_python_come_too(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(number: int) -> int:
        os.write(1, f"past {number}\n".encode())
        time.sleep(0.05)  # while it runs, its node reads that
        return number

    for number in range(8):
        cluster.call(speak, number)
    shown = ""

    def all_shown() -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return all(f"past {number}" in shown for number in range(8))

    until(all_shown)


def test_a_call_of_another_client_gets_the_worker_that_is_leased(
    cluster: mp.Cluster, other: mp.Cluster
) -> None:
    become_direct(cluster, work, 1)

    mine = cluster.call(work, 7)
    theirs = other.call(work, 7)

    assert theirs == mine  # the only worker of the node


def test_calls_that_wait_behind_a_long_one_are_given_back_and_run_once(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    become_direct(cluster, note, str(tmp_path / "before"), 1)
    notes = tmp_path / "notes"

    futures = [cluster.submit(note, str(notes), n) for n in range(400)]
    theirs = [other.call(note, str(notes), 1000 + n) for n in range(20)]

    assert [future.result(30) for future in futures] == list(range(400))
    assert theirs == list(range(1000, 1020))
    runs = Counter(map(int, notes.read_text().split()))
    assert runs == Counter([*range(400), *range(1000, 1020)])


def test_a_cancelled_call_is_interrupted(cluster: mp.Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    become_direct(cluster, wait_for_file, str(tmp_path / "begun before"), str(go))
    begun = tmp_path / "begun"

    future = cluster.submit(wait_for_file, str(begun), str(tmp_path / "never"))
    until_exists(begun)
    future.cancel()

    assert cluster.on(timeout=60).call(double, 4) == 8
    assert future.cancelled()


def test_a_deadline_ends_a_call_and_frees_its_worker(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.touch()
    become_direct(cluster, wait_for_file, str(tmp_path / "begun before"), str(go))

    with pytest.raises(CallTimeout):
        cluster.on(timeout=0.3).call(
            wait_for_file, str(tmp_path / "begun"), str(tmp_path / "never")
        )

    assert cluster.call(double, 4) == 8


def test_a_new_version_runs_at_once(cluster: mp.Cluster) -> None:
    def old() -> str:
        return "old"

    def new() -> str:
        return "new"

    cluster.register(old, name="versioned")
    for _ in range(8):
        assert cluster.call("versioned") == "old"

    cluster.register(new, name="versioned")

    assert [cluster.call("versioned") for _ in range(8)] == ["new"] * 8


two_slots = pytest.mark.parametrize("cluster", [2], indirect=True)


def hold(begun: str, go_on: str) -> int:
    """Run until a file is there, whatever interrupts it; return the worker."""

    Path(begun).touch()
    while not Path(go_on).exists():
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            continue
    return os.getpid()


@two_slots  # a worker with one slot has another lent in its place
def test_a_call_that_a_leased_worker_runs_may_call_the_cluster(
    cluster: mp.Cluster,
) -> None:
    def outer(number: int) -> int:
        inner: int = mp.current().call("inner-of-leased", number)
        return inner + 1

    cluster.register(double, name="inner-of-leased")

    assert [cluster.call(outer, n) for n in range(20)] == [2 * n + 1 for n in range(20)]


@two_slots
def test_calls_of_a_lease_run_beside_each_other(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.touch()
    become_direct(cluster, hold, str(tmp_path / "before"), str(go))
    go.unlink()

    futures = [cluster.submit(hold, str(tmp_path / f"{n}"), str(go)) for n in range(2)]
    for n in range(2):
        until_exists(tmp_path / f"{n}")
    go.touch()

    assert len({future.result(20) for future in futures}) == 1


@two_slots
def test_another_client_gets_the_slot_beside_a_long_call_of_a_lease(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.touch()
    become_direct(cluster, hold, str(tmp_path / "before"), str(go))
    go.unlink()

    long = cluster.submit(hold, str(tmp_path / "begun"), str(go))
    until_exists(tmp_path / "begun")
    theirs = [other.call(double, number) for number in range(4)]
    still_runs = not long.done()
    go.touch()

    assert theirs == [0, 2, 4, 6]
    assert still_runs
    long.result(20)


@two_slots
def test_a_call_begins_as_soon_as_one_of_the_last_calls_of_a_lease_has_ended(
    cluster: mp.Cluster, other: mp.Cluster, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    become_direct(cluster, hold, str(tmp_path / "before"), str(first))
    first.unlink()

    futures = [
        cluster.submit(hold, str(tmp_path / f"{go.name} begun"), str(go))
        for go in (first, second)
    ]
    until_exists(tmp_path / "first begun")
    until_exists(tmp_path / "second begun")
    theirs = other.submit(double, 4)
    until(lambda: other.nodes()["queued"].sum() == 1)
    first.touch()

    assert theirs.result(20) == 8
    assert not futures[1].done()
    second.touch()
    futures[1].result(20)


def test_a_cancelled_call_of_a_lease_that_goes_on_takes_no_other_with_it(
    own: mp.Cluster, tmp_path: Path
) -> None:
    go, never = tmp_path / "go", tmp_path / "never"
    go.touch()
    become_direct(own, hold, str(tmp_path / "before"), str(go))
    go.unlink()

    beside = own.submit(hold, str(tmp_path / "beside"), str(go))
    ignores = own.submit(hold, str(tmp_path / "ignores"), str(never))
    until_exists(tmp_path / "beside")
    until_exists(tmp_path / "ignores")
    ignores.cancel()
    # The slot of the cancelled one is there again, in another worker.
    others = [own.submit(hold, str(tmp_path / f"other {n}"), str(go)) for n in range(2)]
    until(lambda: any((tmp_path / f"other {n}").exists() for n in range(2)))
    go.touch()

    assert beside.result(20) != others[0].result(20)
    never.touch()
    until(ignores.done)


def test_calls_of_a_lease_fail_with_the_cause_when_its_worker_dies(
    own: mp.Cluster, tmp_path: Path
) -> None:
    def die(begun: str, go_on: str) -> None:
        hold(begun, go_on)
        os._exit(3)

    go = tmp_path / "go"
    go.touch()
    become_direct(own, hold, str(tmp_path / "before"), str(go))
    go.unlink()

    beside = own.submit(hold, str(tmp_path / "beside"), str(tmp_path / "never"))
    until_exists(tmp_path / "beside")
    dies = own.submit(die, str(tmp_path / "dies"), str(go))
    until_exists(tmp_path / "dies")
    go.touch()

    for future in (beside, dies):
        with pytest.raises(WorkerCrashed) as caught:
            future.result(30)
        assert caught.value.executed == "unknown"
