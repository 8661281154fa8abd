"""Functions that call the cluster they run in."""

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


def fibonacci(number: int) -> int:
    import mpreg_nb

    if number < 2:
        return number
    cluster = mpreg_nb.current()
    parts = [cluster.submit("fibonacci", number - back) for back in (1, 2)]
    return sum(part.result() for part in parts)


def test_nested_calls_never_run_out_of_slots() -> None:
    with mp.up(2, fresh=True) as cluster:
        cluster.register(fibonacci)

        assert cluster.on(timeout=60).call("fibonacci", 6) == 8


def test_calls_that_others_wait_for_go_first_so_that_few_processes_are_needed() -> None:
    def inner(number: int) -> int:
        return number

    def outer(number: int) -> tuple[int, int]:
        import os

        import mpreg_nb as mp

        return mp.call("inner", number), os.getpid()

    with mp.up(1, fresh=True) as cluster:
        cluster.register(inner)
        found = cluster.map(outer, range(40))

    assert [number for number, _ in found] == list(range(40))
    assert len({process for _, process in found}) <= 10


def test_function_objects_can_be_called_inside_of_functions() -> None:
    with mp.up(1, fresh=True) as cluster:
        cluster.register(len, name="length")

        def outer(words: list[str]) -> list[int]:
            import mpreg_nb

            return mpreg_nb.current().map("length", words)

        assert cluster.on(timeout=30).call(outer, ["a", "ab", "abc"]) == [1, 2, 3]


def test_a_function_gives_up_its_slot_while_it_waits_for_a_step() -> None:
    def outer() -> list[int]:
        import mpreg_nb

        flow = mpreg_nb.workflow("inner")
        flow.step("one", len, [1])
        run = flow.start()
        return [run["one"], run.outputs["one"]]

    with mp.up(1, fresh=True) as cluster:
        assert cluster.on(timeout=30).call(outer) == [1, 1]


def test_decorated_functions_keep_their_verbs_inside_of_others() -> None:
    with mp.up(2, fresh=True):

        @mp.function(idempotent=True)
        def inner(number: int) -> int:
            return number + 1

        @mp.function
        def outer(number: int) -> tuple[int, int, list[int]]:
            parts = inner.map([1, 2, 3])
            return inner(number), inner.on(timeout=30).call(number), parts

        assert outer.on(timeout=60).call(10) == (11, 11, [2, 3, 4])


def test_a_decorated_function_can_submit_itself() -> None:
    with mp.up(2, fresh=True) as cluster:

        @mp.function
        def halve(number: int) -> int:
            if number == 1:
                return 0
            count: int = halve.submit(number // 2).result()
            return count + 1

        assert halve.on(timeout=60).call(16) == 4
        versions = cluster.functions("halve")["version"]
        assert versions.nunique() == 1


CELL = """
@mp.function
def countdown(number):
    return [{mark!r}] + (countdown.call(number - 1) if number else [])
"""


def test_a_cell_that_runs_again_means_the_newer_function_by_its_own_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables: dict[str, object] = {"mp": mp}
    with mp.up(1, fresh=True) as cluster:
        marks = []
        for mark in ("old", "new", "new"):
            exec(CELL.format(mark=mark), variables)  # noqa: S102
            marks.append(cluster.on(timeout=60).call("countdown", 1))

        assert marks == [["old"] * 2, ["new"] * 2, ["new"] * 2]
        assert capsys.readouterr().out.splitlines() == [
            "countdown v1 → v2, 1 result is now stale"
        ]


def leaf(number: int) -> int:
    return number * number


def by_wait() -> int:
    import concurrent.futures

    import mpreg_nb

    futures = [mpreg_nb.current().submit(leaf, number) for number in range(3)]
    done, _ = concurrent.futures.wait(futures, timeout=60)
    return len(done)


def by_as_completed() -> int:
    import concurrent.futures

    import mpreg_nb

    futures = [mpreg_nb.current().submit(leaf, number) for number in range(3)]
    return len(list(concurrent.futures.as_completed(futures, timeout=60)))


def by_callback() -> int:
    import threading

    import mpreg_nb

    ended = threading.Semaphore(0)
    for number in range(3):
        future = mpreg_nb.current().submit(leaf, number)
        future.add_done_callback(lambda _: ended.release())
    return sum(ended.acquire(timeout=60) for _ in range(3))


def by_joblib() -> int:
    import joblib

    with joblib.parallel_config("mpreg"):
        return len(joblib.Parallel(n_jobs=2)(joblib.delayed(leaf)(n) for n in range(3)))


def test_a_function_gives_up_its_slot_however_it_waits_for_its_calls() -> None:
    with mp.up(1, fresh=True) as cluster:
        for wait in (by_wait, by_as_completed, by_callback, by_joblib):
            assert cluster.on(timeout=60).call(wait) == 3, wait
