"""Every bad input has its error, before anything runs where that can be."""

import re
import threading
from collections.abc import Iterator

import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up({"n1": set(), "gpu-1": {"gpu"}}, fresh=True) as cluster:
        cluster.register(abs, name="train", resources={"gpu"})
        yield cluster


def check_text(error: BaseException) -> None:
    text = str(error)
    assert not re.search(r":\d{4,5}\b|\bpid\b|\d\d:\d\d:\d\d|0x[0-9a-f]{6}", text), text


def test_unknown_function_names_the_nearest(cluster: mp.Cluster) -> None:
    with pytest.raises(mp.errors.NoRoute, match="Did you mean 'train'") as caught:
        cluster.call("trian", 1)

    check_text(caught.value)


def test_missing_resource_names_the_nearest_node_and_the_cure(
    cluster: mp.Cluster,
) -> None:
    with pytest.raises(LookupError) as caught:
        cluster.on("mnist").call("train", 1)

    assert str(caught.value) == (
        "no live node has 'train' with all of: gpu, mnist. Nearest is gpu-1, which "
        "lacks: mnist. Start one: cluster.add('n3', {'gpu', 'mnist'})"
    )


def test_unknown_node_names_those_that_live(cluster: mp.Cluster) -> None:
    with pytest.raises(mp.errors.NoRoute, match="live nodes: gpu-1, n1") as caught:
        cluster.on(node="n9").call("train", 1)

    check_text(caught.value)


def test_function_on_a_node_without_its_resources_is_refused(
    cluster: mp.Cluster,
) -> None:
    with pytest.raises(mp.errors.NoRoute) as caught:
        cluster.on(node="n1").call("train", 1)

    check_text(caught.value)


def test_arguments_that_cannot_travel_name_the_path(cluster: mp.Cluster) -> None:
    model = {"weights": [1, 2], "lock": threading.Lock()}

    with pytest.raises(mp.errors.NotPicklable, match="lock") as caught:
        cluster.call("train", model)

    assert isinstance(caught.value, TypeError)
    check_text(caught.value)


def test_function_that_captures_what_cannot_travel_is_refused(
    cluster: mp.Cluster,
) -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    with pytest.raises(mp.errors.NotPicklable, match="lock"):
        cluster.register(locked)


def test_result_that_cannot_travel_says_what_it_is(cluster: mp.Cluster) -> None:
    def give_lock() -> object:
        import threading

        return threading.Lock()

    with pytest.raises(mp.errors.NotPicklable, match="lock") as caught:
        cluster.call(give_lock)

    check_text(caught.value)


def test_deadline_that_passes_is_a_timeout(cluster: mp.Cluster) -> None:
    def slow() -> None:
        import time

        time.sleep(30)

    with pytest.raises(TimeoutError) as caught:
        cluster.on(timeout=0.2).call(slow)

    assert isinstance(caught.value, mp.errors.CallTimeout)
    check_text(caught.value)


def test_class_in_a_module_with_a_name_that_is_no_text_can_be_raised(
    cluster: mp.Cluster,
) -> None:
    def fail() -> None:
        error = type("Odd", (Exception,), {"__module__": "odd_\ud800"})
        raise error("said")

    fail.__doc__ = "Fail, \ud800."  # 3.13.0 cannot compile it as a docstring
    with pytest.raises(mp.errors.RemoteError, match="said") as caught:
        cluster.call(fail)

    check_text(caught.value)


@pytest.mark.parametrize("bad", [0, -1, "5", True, float("nan"), 1e8])
def test_timeout_is_a_positive_number(cluster: mp.Cluster, bad: object) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout"):
        cluster.on(timeout=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["a,b", "", "a/b", "a:b", "\n"])
def test_names_follow_one_rule(cluster: mp.Cluster, bad: str) -> None:
    with pytest.raises(ValueError, match="printable characters"):
        cluster.call(bad)
    with pytest.raises(ValueError, match="printable characters"):
        cluster.on(bad)
    with pytest.raises(ValueError, match="printable characters"):
        cluster.register(abs, name=bad)
    with pytest.raises(ValueError, match="printable characters"):
        cluster.workflow("w").step(bad, abs)


def test_workflow_is_checked_before_anything_runs(cluster: mp.Cluster) -> None:
    ran: list[str] = []

    def note() -> None:
        ran.append("x")

    flow = cluster.workflow("cycle")
    flow.step("a", note, mp.ref("b"))
    flow.step("b", note, mp.ref("a"))
    with pytest.raises(mp.errors.InvalidWorkflow, match="cycle"):
        flow.run()

    flow = cluster.workflow("unknown step")
    flow.step("first", note)
    flow.step("second", note, mp.ref("frist"))
    with pytest.raises(mp.errors.InvalidWorkflow, match="'first'"):
        flow.run()

    flow = cluster.workflow("unknown function")
    flow.step("first", "trian")
    with pytest.raises(mp.errors.InvalidWorkflow, match="Did you mean 'train'"):
        flow.run()

    flow = cluster.workflow("nowhere")
    flow.step("first", note).on("tpu")
    with pytest.raises(mp.errors.NoRoute, match="tpu"):
        flow.run()

    with pytest.raises(mp.errors.InvalidWorkflow):
        flow.step("first", note)


def test_code_that_is_no_function_is_refused(cluster: mp.Cluster) -> None:
    with pytest.raises(TypeError, match="not a function"):
        cluster.register(42)
    with pytest.raises(ValueError, match="lambda"):
        cluster.register(lambda: 1)
    with pytest.raises(ValueError, match="isolation"):
        cluster.register(abs, name="abs", isolation="vm")


def test_wrong_token_is_not_trusted(cluster: mp.Cluster) -> None:
    with pytest.raises(mp.errors.NotTrusted) as caught:
        mp.connect(cluster.urls[0], token="not-the-token-of-this-cluster")

    assert isinstance(caught.value, PermissionError)
    check_text(caught.value)


def test_exceptions_that_end_programs_do_not_end_workers(cluster: mp.Cluster) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(mp.errors.RemoteError, match="3"):
        cluster.on(node="n1").call(leave)

    assert cluster.on(node="n1").call(len, "ab") == 2
