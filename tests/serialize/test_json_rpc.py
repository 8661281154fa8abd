"""JSON requests are understood or refused with a code; nothing else comes of them."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.serialize.json_rpc import (
    LATE,
    MALFORMED,
    JsonRefused,
    JsonRequest,
    error_answer,
    mention,
    pack_json,
    read_request,
    results_answer,
    unpack_json_call,
)


def request(*commands: dict[str, Any], **fields: Any) -> str:
    frame = {"role": "rpc", "u": "7", "cmds": list(commands), **fields}
    return json.dumps(frame)


def command(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "fun": "echo", "args": [], "kwargs": {}, "locs": [], **fields}


def refused(text: str) -> JsonRefused:
    with pytest.raises(JsonRefused) as caught:
        read_request(text)
    answer = json.loads(caught.value.answer)
    assert set(answer) == {"r", "error", "u"}
    assert answer["r"] is None
    assert answer["error"]["code"] == caught.value.code
    return caught.value


def arguments(read: JsonRequest, step: int, **results: Any) -> Any:
    """What the function of a step gets, where these are the results of others."""
    one = read.steps[step]
    inputs = [(pack_json(results[name]),) for name in one.inputs]
    return unpack_json_call((one.payload,), inputs)


def test_a_request_is_read() -> None:
    read = read_request(
        request(command(fun="train", args=[1], kwargs={"k": [2]}, locs=["gpu"]))
    )

    assert read.u == "7"
    assert read.timeout_s == 30.0
    (step,) = read.steps
    assert (step.name, step.function) == ("a", "train")
    assert step.resources == {"gpu"}
    assert step.inputs == ()
    assert arguments(read, 0) == ((1,), {"k": [2]})


def test_only_name_and_function_are_needed() -> None:
    read = read_request('{"role": "rpc", "cmds": [{"name": "a", "fun": "f"}]}')

    assert read.u == ""
    assert arguments(read, 0) == ((), {})


def test_arguments_that_are_no_list_are_one() -> None:
    read = read_request(request(command(args="SELECT *"), command("b", args={"k": 1})))

    assert arguments(read, 0) == (("SELECT *",), {})
    assert arguments(read, 1) == (({"k": 1},), {})


def test_strings_at_any_depth_that_name_others_are_their_results() -> None:
    read = read_request(
        request(
            command("a"),
            command("b", args=["a", ["x", {"k": "a.rows.first"}]], kwargs={"w": "a"}),
        )
    )

    assert read.steps[1].inputs == ("a",)
    given_a = {"rows": {"first": 1}}
    assert arguments(read, 1, a=given_a) == (
        (given_a, ["x", {"k": 1}]),
        {"w": given_a},
    )


def test_a_field_that_is_not_there_leaves_the_string_and_still_waits() -> None:
    read = read_request(request(command("a"), command("b", args=["a.gone", "a."])))

    assert read.steps[1].inputs == ("a",)
    assert arguments(read, 1, a={"rows": 1}) == (("a.gone", "a."), {})


def test_keys_and_the_own_name_are_never_references() -> None:
    read = read_request(
        request(command("a", args=["a", "a.x"]), command("b", args=[{"a": 1}]))
    )

    assert [step.inputs for step in read.steps] == [(), ()]
    assert arguments(read, 0) == (("a", "a.x"), {})
    assert arguments(read, 1) == (({"a": 1},), {})


def test_the_longest_name_counts() -> None:
    read = read_request(
        request(
            command("a"), command("a.b"), command("c", args=["a.b", "a.b.k", "a.c"])
        )
    )

    assert set(read.steps[2].inputs) == {"a", "a.b"}
    results = {"a": {"b": "no", "c": 1}, "a.b": {"k": 2}}
    assert arguments(read, 2, **results) == (({"k": 2}, 2, 1), {})


def test_numbers_name_a_request_as_well() -> None:
    assert read_request(request(command(), u=12)).u == 12


@pytest.mark.parametrize("seconds", [0.5, 1, 86_400])
def test_a_request_may_give_its_time(seconds: float) -> None:
    assert read_request(request(command(), timeout=seconds)).timeout_s == seconds


@pytest.mark.parametrize("role", ["server", "gossip", "RPC", ""])
def test_another_role_is_unknown(role: str) -> None:
    refusal = refused(request(command(), role=role))

    assert (refusal.code, refusal.u) == (LATE, "7")
    assert "unknown role" in refusal.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "1",
        '"rpc"',
        "null",
        '{"role": "rpc"}',
        '{"cmds": []}',
        '{"role": 5, "cmds": []}',
        '{"role": "rpc", "cmds": {}}',
        '{"role": "rpc", "cmds": [1]}',
        '{"role": "rpc", "cmds": [{}]}',
        '{"role": "rpc", "cmds": [{"name": "a"}]}',
        '{"role": "rpc", "u": ["x"], "cmds": []}',
        '{"role": "rpc", "u": 1.5, "cmds": []}',
        '{"role": "rpc", "u": "1", "cmds": [], "timeout": 0}',
        '{"role": "rpc", "u": "1", "cmds": [], "timeout": -1}',
        '{"role": "rpc", "u": "1", "cmds": [], "timeout": "5"}',
        '{"role": "rpc", "u": "1", "cmds": [], "timeout": 1e99}',
        '{"role": "rpc", "u": "1", "cmds": [], "timeout": NaN}',
        '{"role": "rpc", "u": "1", "cmds": [] ',
        '{"role": "rpc", "u": "1", "cmds": []} and more',
        '{"role": "rpc", "u": "\\ud800", "cmds": []}',
        '{"role": "rpc", "u": "1", "cmds": [{"name": "a", "fun": "f", "args": [NaN]}]}',
        '{"role": "rpc", "u": "1", "cmds": [{"name": "a", "fun": "f", "args": 1e999}]}',
    ],
)
def test_what_is_no_request_is_malformed(text: str) -> None:
    assert refused(text).code == MALFORMED


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "a,b"},
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"name": 5},
        {"fun": "a/b"},
        {"fun": None},
        {"kwargs": []},
        {"kwargs": {"k": 10**30}},
        {"locs": "gpu"},
        {"locs": ["g:pu"]},
        {"locs": [1]},
        {"args": [2**64]},
        {"args": [-(2**63) - 1]},
        {"args": [10**4000]},
    ],
)
def test_a_bad_command_is_malformed_and_the_request_is_named(
    bad: dict[str, Any],
) -> None:
    refusal = refused(request(command(**bad)))

    assert (refusal.code, refusal.u) == (MALFORMED, "7")
    assert refusal.message.startswith("malformed request: ")


def test_integers_of_64_bits_pass() -> None:
    numbers = [2**64 - 1, -(2**63), 0]

    read = read_request(request(command(args=numbers)))

    assert arguments(read, 0)[0] == tuple(numbers)


def nested(depth: int) -> str:
    args = "[" * depth + "1" + "]" * depth
    return f'{{"role":"rpc","u":"7","cmds":[{{"name":"a","fun":"f","args":{args}}}]}}'


def test_nesting_has_a_limit() -> None:
    assert read_request(nested(64)).steps[0].name == "a"
    assert refused(nested(70)).code == MALFORMED


@pytest.mark.parametrize("depth", [900, 10_000, 1_000_000])
def test_deep_nesting_is_refused_without_effort(depth: int) -> None:
    text = nested(depth)

    began = time.process_time()
    refusal = refused(text)

    assert refusal.code == MALFORMED
    assert time.process_time() - began < 1


def test_a_long_string_of_dots_costs_no_more_than_its_length() -> None:
    text = "a" + "." * 1_000_000

    began = time.process_time()
    found = mention(text, {"b"})
    read = read_request(request(command("b"), command("c", args=[text])))

    assert found is None
    assert read.steps[1].inputs == ()
    assert arguments(read, 1) == ((text,), {})
    assert time.process_time() - began < 1


def test_results_are_put_into_the_answer_as_they_are() -> None:
    answer = results_answer("7", {"a": b'{"k":[1,2]}', "b": b"null"})

    assert json.loads(answer) == {
        "r": {"a": {"k": [1, 2]}, "b": None},
        "error": None,
        "u": "7",
    }


def test_an_error_may_say_anything() -> None:
    answer = error_answer(3, MALFORMED, "bad \ud800 \x00 text", {"k": ["v"]})

    said = json.loads(answer)
    assert said["u"] == 3
    assert said["error"] == {
        "code": 1000,
        "message": "bad \\ud800 \x00 text",
        "details": {"k": ["v"]},
    }


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_request(text)
    except JsonRefused as refusal:
        json.loads(refusal.answer)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    frame=st.fixed_dictionaries(
        {"role": st.just("rpc") | ANY_JSON, "u": st.just("7") | ANY_JSON},
        optional={
            "timeout": ANY_JSON,
            "cmds": ANY_JSON
            | st.lists(
                st.fixed_dictionaries(
                    {"name": st.sampled_from("ab") | ANY_JSON, "fun": st.just("f")},
                    optional={"args": ANY_JSON, "kwargs": ANY_JSON, "locs": ANY_JSON},
                )
            ),
        },
    )
)
def test_any_frame_is_read_or_refused(frame: dict[str, Any]) -> None:
    try:
        text = msgspec.json.encode(frame).decode()
    except (msgspec.EncodeError, OverflowError, UnicodeEncodeError):
        return
    try:
        read = read_request(text)
    except JsonRefused as refusal:
        json.loads(refusal.answer)
    else:
        names = {step.name for step in read.steps}
        for step in read.steps:
            assert set(step.inputs) <= names - {step.name}


@given(
    st.text("ab.", max_size=12),
    st.sets(st.text("ab.", min_size=1, max_size=4), max_size=4),
)
def test_a_mention_is_a_name_and_the_path_behind_it(text: str, names: set[str]) -> None:
    found = mention(text, names)

    heads = [text[:end] for end, char in enumerate(text) if char == "."] + [text]
    if found is None:
        assert names.isdisjoint(head for head in heads if head)
        return
    name, path = found
    assert ".".join((name, *path)) == text
    assert name == max(names & set(heads), key=len)
