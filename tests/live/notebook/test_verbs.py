"""Every verb of `%mpreg` and `%%mpreg` in a real kernel, and what it returns."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

from mpreg_nb.notebook.verbs import CELL_VERBS, LINE_VERBS
from tests.support.kernel import Cell, Kernel, kernel
from tests.support.leaks import Leaks, nothing_left

pytestmark = pytest.mark.live

SETUP = """%load_ext mpreg_nb
import os, signal, threading
import mpreg_nb as mp
cluster = %mpreg up gpu-1:gpu cpu-1:cpu n3
rows = [1, 2, 3]

@mp.function(resources={"cpu"})
def total(rows, scale=1):
    print("rows:", len(rows))
    return sum(rows) * scale

def mean(total, rows):
    return total / len(rows)

def wait_for_ever(path):
    import threading
    threading.Event().wait()

flow = mp.workflow("report")
first = flow.step("total", total, rows)
flow.step("mean", mean, first, rows).on("gpu")

endless = mp.workflow("endless")
endless.step("wait", wait_for_ever, "")
"""


LINES = {
    "up": ("%mpreg up cpu-1:cpu gpu-1:gpu n3", "_ is cluster", "True"),
    "ps": ("%mpreg ps", "sorted(_.node)", "['cpu-1', 'gpu-1', 'n3']"),
    "register": (
        "%mpreg register mean --resources gpu",
        "_ is mean, _.card.nodes",
        "(True, ('gpu-1',))",
    ),
    "call": ("%mpreg call total(rows, scale=2)", "_", "12"),
    "functions": ("%mpreg functions tot*", "[*_.function, *_.nodes]", "['total', 'cpu"),
    "plan": ("%mpreg plan flow", "list(_.chosen)", "['cpu-1', 'gpu-1']"),
    "draw": ("%mpreg draw report", "_ is flow", "True"),
    "run": ("%mpreg run report", "_.status, _.outputs", "('done', {'mean': 2.0})"),
    "runs": (
        "flow.run(); %mpreg runs".replace("; ", "\n"),
        "_.columns[1], set(_.workflow) >= {'report'}",
        "('workflow', True)",
    ),
    "why": (
        "kept = flow.run()\n%mpreg why kept.mean",
        "sorted(_.frame().node)",
        "['cpu-1', 'gpu-1', 'n3']",
    ),
    "kept": ("%mpreg kept", "list(_)", "[]"),
    "forget": (
        "get_ipython().run_cell_magic('mpreg', 'remote --keep work', 'x = 1')\n"
        "%mpreg forget work",
        "_",
        "('work',)",
    ),
    "status": ("%mpreg status", "str(_)[:29]", "'Cluster of 3 nodes: 3 alive ·'"),
    "nodes": ("%mpreg nodes", "list(_.resources)", "['cpu', 'gpu', '']"),
    "routes": (
        "total.call(rows)\n%mpreg routes",
        "set(_.node[_.function == 'total'])",
        "{'cpu-1'}",
    ),
    "calls": ("total.call(rows)\n%mpreg calls", "_.iloc[-1].function", "'total'"),
    "events": ("%mpreg events", "'joined' in set(_.event)", "True"),
    "latency": (
        "total.call(rows)\n%mpreg latency --by node",
        "list(_.columns[:2])",
        "['node', 'count']",
    ),
    "logs": ("%mpreg logs n3 -n 1", "_.nodes, len(_.lines)", "(('n3',), 1)"),
    "doctor": ("%mpreg doctor", "type(_).__name__", "'Findings'"),
    "config": ("%mpreg config", "_ is mp.config()", "True"),
}
"""Verb -> line, what to ask of its value, and the answer."""

ELSEWHERE = {
    *("adopt", "bench", "cancel", "connect", "down", "help", "kill", "partition"),
    *("pause", "watch"),
}
"""Verbs that have a test of their own below."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with a cluster, for all tests of this file."""
    with (
        pytest.MonkeyPatch.context() as patch,
        nothing_left(tmp_path_factory.mktemp("shared")),
    ):
        patch.setenv("MPREG_NB_PLAIN", "0")
        with kernel() as front:
            begun = front.run(SETUP)
            assert "error" not in begun.kinds(), told(begun)
            yield front


def value(front: Kernel, source: str, expression: str = "_") -> str:
    """Run `source`, which has a value; return that of `expression` over `_`."""
    cell = front.run(source)
    assert cell.kinds()[-1:] == ["execute_result"], told(cell)
    return shown(front.run(expression))


def shown(cell: Cell) -> str:
    """Return the value of a cell as text."""
    assert cell.data(), told(cell)
    return cell.data()[-1]["text/plain"]


def told(cell: Cell) -> str:
    """Return what a cell said instead of what it should."""
    errors = [m["content"] for m in cell.messages if m["msg_type"] == "error"]
    traceback = "\n".join(line for each in errors for line in each["traceback"])
    return cell.stream() + cell.stream("stderr") + traceback


def refused(cell: Cell) -> str:
    """Return the one line that says what was wrong with a cell."""
    assert "error" not in cell.kinds(), told(cell)
    said = cell.stream("stderr")
    assert said.startswith("UsageError: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("verb", LINES)
def test_a_line_returns_what_its_method_returns(front: Kernel, verb: str) -> None:
    line, expression, answer = LINES[verb]

    found = value(front, line, expression)

    assert found.startswith(answer)


def test_every_verb_of_the_line_has_a_test() -> None:
    assert set(LINE_VERBS) == {*LINES, *ELSEWHERE}


def test_nodes_are_added_and_ended_by_name(front: Kernel) -> None:
    added = value(front, "%mpreg up extra:gpu", "_ is cluster, cluster.own_nodes")
    ended = value(front, "%mpreg down extra")
    missing = front.run("%mpreg down extra")

    assert added == "(True, ('gpu-1', 'cpu-1', 'n3', 'extra'))"
    assert ended == "('extra',)"
    assert "not start a node named 'extra'" in refused(missing)


def test_a_cluster_is_joined_by_url_and_left_alone_by_down(front: Kernel) -> None:
    joined = value(
        front, "url = cluster.urls[0]\n%mpreg connect $url", "_.own_nodes, len(_.urls)"
    )
    down = value(front, "%mpreg down", "_, mp.current() is cluster")
    nowhere = front.run("%mpreg connect ws://127.0.0.1:1")

    assert joined == "((), 3)"
    assert down == "((), True)"
    assert "127.0.0.1" in refused(nowhere)


def test_a_run_is_kept_awaited_and_cancelled_by_its_names(front: Kernel) -> None:
    kept = front.run("%mpreg run flow -o kept")
    started = front.run("%mpreg run endless -a -o going")
    by_variable = front.run("%mpreg cancel going")
    ended = front.run("try:\n    going.wait(60)\nexcept BaseException as e:\n    e")
    status = shown(front.run("going.status, kept.status"))
    front.run("going = endless.start()")
    by_name = front.run("%mpreg cancel endless")
    front.run("try:\n    going.wait(60)\nexcept BaseException as e:\n    e")
    nobody = front.run("%mpreg cancel nobody")

    assert "execute_result" not in kept.kinds() + started.kinds()
    assert "error" not in [*by_variable.kinds(), *ended.kinds(), *by_name.kinds()]
    assert status == "('cancelled', 'done')"
    assert shown(front.run("going.status")) == "'cancelled'"
    assert "no run" in refused(nobody)


def test_inputs_of_a_workflow_are_given_in_brackets(front: Kernel) -> None:
    front.run(
        "holes = mp.workflow('holes')\n"
        "holes.step('sum', total, holes.input('values'), scale=holes.input('scale'))"
    )

    run = value(front, "%mpreg run holes(values=rows, scale={'x': 3}['x'])", "_['sum']")
    plan = value(front, "%mpreg plan holes(values=rows, scale=1)", "list(_.chosen)")
    unfilled = front.run("%mpreg run holes(values=rows)")

    assert run == "18"
    assert plan == "['cpu-1']"
    assert "scale" in refused(unfilled)


def test_a_live_view_is_shown_and_closed(front: Kernel) -> None:
    cell = front.run("view = %mpreg watch members runs\nview")
    views = shown(front.run("view.views, view.closed"))
    front.run("view.close()")
    wrong = front.run("%mpreg watch membrs")

    assert any("members" in data.get("text/html", "") for data in cell.data())
    assert views == "(('members', 'runs'), False)"
    assert "members" in refused(wrong)


def test_a_log_is_followed_until_stop(front: Kernel) -> None:
    kernel_id = int(shown(front.run("os.getpid()")))

    following = front.start("%mpreg logs n3 -f -n 1")
    front.wait_for("INFO", following)
    os.kill(kernel_id, signal.SIGINT)
    front.wait(following)
    missing = front.run("%mpreg logs n4")
    negative = front.run("%mpreg logs n3 -f -n -1")

    assert set(following.kinds()) == {"stream"}
    assert following.stream("stderr") == ""
    assert "no node 'n4'" in refused(missing)
    assert "0 or more, not -1" in refused(negative)


def test_a_value_is_configured_for_this_kernel(front: Kernel) -> None:
    before = value(front, "%mpreg config slots")
    after = value(front, "%mpreg config slots 4")
    read = value(front, "%mpreg config slots")
    front.run("%mpreg config slots 1")
    wrong = front.run("%mpreg config slots 0")

    assert (before, after, read) == ("1", "4", "4")
    assert "slots must be a whole number of calls, 1 to 1,024, not 0" in refused(wrong)


def test_drills_disturb_nodes_and_the_cluster_gets_over_them(front: Kernel) -> None:
    paused = front.run("%mpreg pause n3 0.5")
    front.run("cluster.wait_for('n3', state='suspect')\ncluster.wait_for('n3')")
    cut = front.run("%mpreg partition n3|cpu-1,gpu-1 0.1")
    spaced = front.run("%mpreg partition n3 | cpu-1, gpu-1 0.1  # the same")
    unknown = front.run("%mpreg pause moon 1")

    assert paused.kinds() == cut.kinds() == spaced.kinds() == []
    assert "not start a node named 'moon'" in refused(unknown)


def test_a_killed_node_is_dead_and_up_starts_it_again(front: Kernel) -> None:
    front.run("%mpreg up victim")

    killed = front.run("%mpreg kill victim")
    front.run("cluster.wait_for('victim', state='dead')")
    state = shown(front.run("cluster.nodes().set_index('node').state.victim"))
    again = value(front, "%mpreg up victim", "'victim' in _.own_nodes")
    alive = shown(front.run("cluster.nodes().set_index('node').state.victim"))
    front.run("%mpreg down victim")

    assert killed.kinds() == []
    assert state == "'dead'"
    assert (again, alive) == ("True", "'alive'")


def test_a_bench_measures_the_cluster_that_runs(front: Kernel) -> None:
    here = value(front, "%mpreg bench --here --only builtin", "sorted(_.frame().row)")

    assert here == "['bare echo', 'builtin echo']"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%mpreg kil", ["kill"]),
        ("%mpreg kill g", ["gpu-1"]),
        ("%mpreg partition n3|c", ["cpu-1"]),
        ("%mpreg why report.m", ["report.mean"]),
        ("%%mpreg everywhere --on g", ["gpu"]),
        ("held = %mpreg watch top", ["topology"]),
    ],
)
def test_tab_offers_what_fits(front: Kernel, line: str, words: list[str]) -> None:
    front.run("flow.run()")

    assert offered(front, line) == words


def test_tab_inside_a_call_offers_what_python_knows(front: Kernel) -> None:
    words = offered(front, "%mpreg call total(ro")

    assert {"rows", "round"} <= set(words)
    assert set(words).isdisjoint(LINE_VERBS)


def offered(front: Kernel, line: str) -> list[str]:
    """Return what Tab offers at the end of `line`."""
    return front.complete(line)


def test_help_is_text(front: Kernel) -> None:
    overview = front.run("%mpreg help")
    explained = front.run("%mpreg help step")
    asked = front.run("%mpreg?")

    assert all(f"mpreg {verb}" in overview.stream() for verb in LINE_VERBS)
    assert explained.stream().startswith("usage: %%mpreg step")
    assert asked.kinds() == []  # the pager's, which is part of the reply


def test_a_kept_cluster_is_adopted_by_the_next_kernel(leaks: Leaks) -> None:
    with kernel() as first:
        first.run("%load_ext mpreg_nb\nimport mpreg_nb as mp\n%mpreg up -n 1 --keep")
        first.run("f = mp.workflow('first'); f.step('a', 'echo', 7)\nf.run()")

    with kernel() as second:
        second.run("%load_ext mpreg_nb\nimport mpreg_nb as mp")
        adopted = second.run("%mpreg adopt")
        result = value(second, "run = mp.current().get_run('first')\nrun['a']")
        logs = second.run("%mpreg logs -n 1")
        ended = value(second, "%mpreg down")

    assert shown(adopted).startswith("Cluster of 1 node: 1 alive")
    assert result == "7"
    assert "INFO" in shown(logs)
    assert ended == "('n1',)"


# ---------------------------------------------------------------------- cells


def test_a_cell_registers_its_functions(front: Kernel) -> None:
    cell = "%%mpreg register --resources gpu\ndef half(x):\n    return x / 2"

    registered = value(front, cell, "_ is half, _.card.nodes, half.call(3)")

    assert registered == "(True, ('gpu-1',), 1.5)"


def test_a_cell_runs_on_a_node_that_fits(front: Kernel) -> None:
    cell = front.run("%%mpreg remote --on gpu\nprint('there')\nimport os\nsum(rows)")

    assert cell.stream() == "[gpu-1] there\n"
    assert shown(cell) == "6"


def test_a_cell_that_runs_elsewhere_can_call_the_cluster(front: Kernel) -> None:
    cell = "%%mpreg remote --on gpu\nmp.current().call('total', rows, scale=10)"

    assert value(front, cell) == "60"


def test_a_cell_runs_everywhere_at_the_same_time(front: Kernel) -> None:
    cell = front.run("%%mpreg everywhere\nprint(sum(rows))\nlen(rows)")
    narrowed = value(front, "%%mpreg everywhere --on gpu\n'here'")
    kept = front.run("%%mpreg everywhere --on cpu -o kept\nlen(rows)")

    assert sorted(cell.stream().splitlines()) == ["[cpu-1] 6", "[gpu-1] 6", "[n3] 6"]
    assert shown(cell) == "{'cpu-1': 3, 'gpu-1': 3, 'n3': 3}"
    assert narrowed == "{'gpu-1': 'here'}"
    assert "execute_result" not in kept.kinds()
    assert shown(front.run("kept")) == "{'cpu-1': 3}"


def test_a_node_that_fails_does_not_hide_the_values_of_others(front: Kernel) -> None:
    front.run("mp.config('cwd', 'scratch')")  # by which the cell tells nodes apart
    cell = front.run(
        "%%mpreg everywhere -o kept\n"
        "import mpreg_nb as mp, os\n"
        "if os.getcwd().endswith('gpu-1.files'):\n"
        "    raise ValueError('no driver')\n"
        "len(rows)"
    )
    kept = shown(front.run("kept"))
    again = front.run("%%mpreg everywhere\nimport os\n1 / ('gpu-1' not in os.getcwd())")
    front.run("mp.config('cwd', 'caller')")

    (raised,) = (m["content"] for m in cell.messages if m["msg_type"] == "error")
    text = re.sub("\x1b\\[[0-9;]*m", "", "\n".join(raised["traceback"]))
    assert raised["ename"] == "NodesFailed"
    assert "the cell failed on gpu-1 (done: cpu-1, n3)" in text
    assert "Node 'gpu-1':" in text
    assert "raise ValueError('no driver')" in text
    assert kept == "{'cpu-1': 3, 'n3': 3}"
    assert shown(again) == "{'cpu-1': 1.0, 'n3': 1.0}"
    assert again.kinds()[-1] == "error"


def test_stop_ends_a_cell_that_runs_everywhere(front: Kernel) -> None:
    kernel_id = int(shown(front.run("os.getpid()")))

    cell = front.start(
        "%%mpreg everywhere\nimport time\nprint('begun')\ntime.sleep(60)"
    )
    for node in ("cpu-1", "gpu-1", "n3"):
        front.wait_for(f"[{node}] begun", cell)
    os.kill(kernel_id, signal.SIGINT)
    front.wait(cell)
    after = value(front, "%%mpreg everywhere\n1")

    (raised,) = (m["content"] for m in cell.messages if m["msg_type"] == "error")
    assert raised["ename"] == "KeyboardInterrupt"
    assert after == "{'cpu-1': 1, 'gpu-1': 1, 'n3': 1}"


def test_cells_become_steps_by_the_names_they_read_and_set(front: Kernel) -> None:
    load = "%%mpreg step load --flow daily --on cpu\nvalues = [v * 10 for v in rows]"
    front.run(load)
    front.run(
        "%%mpreg step stats --flow daily --on gpu --retry 1 --timeout 30\n"
        "top = max(values)\nlow = min(values)\nprint('of', len(values))"
    )
    text = "%%mpreg step text --flow daily\nf'{low}..{top} of {load}'"

    drawn = value(front, text, "_ is daily")
    run = front.run("%mpreg run daily -o done")
    outputs = shown(front.run("done['load'], done['stats'], done['text']"))
    replaced = value(front, load.replace("10", "100"), "_ is daily")
    again = value(front, "%mpreg run daily", "_.outputs")
    nodes = shown(front.run("list(done.frame().node[:2])"))

    assert drawn == replaced == "True"
    assert run.stream() == "[gpu-1] of 3\n"
    assert outputs == (
        "([10, 20, 30], {'top': 30, 'low': 10}, '10..30 of [10, 20, 30]')"
    )
    assert again == "{'text': '100..300 of [100, 200, 300]'}"
    assert nodes == "['cpu-1', 'gpu-1']"


def test_a_step_cell_reads_inputs_of_its_workflow(front: Kernel) -> None:
    front.run("%%mpreg step load --flow asked --input day\nfound = [day, *rows]")
    front.run("%%mpreg step text --flow asked\nf'{len(found)} of {day}'")

    run = value(front, "%mpreg run asked(day='Monday')", "_['text']")
    unfilled = front.run("%mpreg run asked")

    assert run == "'4 of Monday'"
    assert "input 'day' has no value" in refused(unfilled)


def test_a_step_cell_that_makes_no_sense_is_one_line(front: Kernel) -> None:
    name = front.run("%%mpreg step a/b --flow f\n1")
    retry = front.run("%%mpreg step a --flow f --retry -1\n1")
    flow = front.run("%%mpreg step a --flow rows\n1")
    after = front.run("%%mpreg step a --flow other --after nobody\n1\n")
    run = front.run("%mpreg run other")

    assert "'a/b' cannot name a step" in refused(name)
    assert "0 to 100" in refused(retry)
    assert "'rows' is not a workflow but of type list" in refused(flow)
    assert "error" not in after.kinds()
    assert "nobody" in refused(run)


def test_every_verb_of_the_cell_has_a_test() -> None:
    assert set(CELL_VERBS) == {"register", "remote", "everywhere", "step"}
