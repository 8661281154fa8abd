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


def test_function_objects_can_be_called_inside_of_functions() -> None:
    with mp.up(1, fresh=True) as cluster:
        cluster.register(len, name="length")

        def outer(words: list[str]) -> list[int]:
            import mpreg_nb

            return mpreg_nb.current().map("length", words)

        assert cluster.on(timeout=30).call(outer, ["a", "ab", "abc"]) == [1, 2, 3]
