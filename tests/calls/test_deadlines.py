"""A heap of deadlines against a plain model of it."""

import math

from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.calls.deadlines import Deadlines

KEYS = [bytes([n]) for n in range(6)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "drop", "tick"]),
        st.sampled_from(KEYS),
        st.integers(0, 20),
    ),
    max_size=60,
)


def test_keys_fall_due_in_order_and_once() -> None:
    deadlines = Deadlines()
    deadlines.add(b"late", 3.0)
    deadlines.add(b"soon", 1.0)

    assert deadlines.next == 1.0
    assert deadlines.tick(2.0) == [b"soon"]
    assert deadlines.tick(9.0) == [b"late"]
    assert deadlines.tick(9.0) == []
    assert deadlines.next == math.inf


def test_new_moment_replaces_the_old_one() -> None:
    deadlines = Deadlines()
    deadlines.add(b"key", 1.0)
    deadlines.add(b"key", 5.0)

    assert deadlines.tick(2.0) == []
    assert deadlines.tick(5.0) == [b"key"]


@given(STEPS)
def test_it_behaves_as_a_dict_of_moments_would(
    steps: list[tuple[str, bytes, int]],
) -> None:
    deadlines, model = Deadlines(), dict[bytes, int]()
    for step, key, moment in steps:
        if step == "add":
            deadlines.add(key, moment)
            model[key] = moment
        elif step == "drop":
            deadlines.drop(key)
            model.pop(key, None)
        else:
            fallen = {k for k, due in model.items() if due <= moment}
            assert set(deadlines.tick(moment)) == fallen
            for gone in fallen:
                del model[gone]
        assert deadlines.next == min(model.values(), default=math.inf)
        assert len(deadlines) == len(model)
