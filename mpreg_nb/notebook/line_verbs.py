"""The verbs of `%mpreg`: what each takes, in the order in which help lists them."""

from collections.abc import Iterator

from mpreg_nb.notebook.line import (
    Verb,
    add_registration,
    add_target,
    line_verb,
    sides,
)
from mpreg_nb.notebook.look_verbs import look_verbs

NODES, FUNCTIONS, WORKFLOWS, DRILLS = (
    "nodes",
    "functions",
    "workflows",
    "test failures, on clusters that this notebook started",
)


def _of_nodes() -> Iterator[Verb]:
    up = line_verb(
        NODES,
        "up",
        "Start nodes on this machine; nodes that already run are kept.",
        "up gpu-1:gpu,ml-models cpu-1:cpu",
        "up -n 3 --workers 2",
        "up --keep",
        twin='mp.up({"gpu-1": {"gpu", "ml-models"}, "cpu-1": "cpu"}, workers=1)',
        more="A node that has died, or whose resources changed, is started again.",
    )
    add = up.parser.add_argument
    add("nodes", nargs="*", metavar="NAME[:res,res]", help="a node and its resources")
    add("-n", dest="count", type=int, metavar="3", help="number of nodes: n1, n2, …")
    add("--workers", type=int, metavar="1", help="processes per node")
    add("--slots", type=int, metavar="1", help="calls at once per worker")
    add("--keep", action="store_true", default=None, help="nodes outlive this kernel")
    add("--fresh", action="store_true", help="end running nodes first")
    yield up

    down = line_verb(
        NODES,
        "down",
        "End the cluster, or only these nodes.",
        "down",
        "down gpu-1",
        twin='mp.down() or cluster.remove("gpu-1")',
        more="A cluster that you only connected to is disconnected; its nodes "
        "continue to run.",
    )
    down.parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these nodes"
    )
    yield down

    yield line_verb(
        NODES, "ps", "List every node that you started on this machine.", twin="mp.ps()"
    )

    adopt = line_verb(
        NODES,
        "adopt",
        "Take over a cluster that was started with --keep, with its runs.",
        "adopt",
        "adopt calm-otter",
        twin='mp.adopt("calm-otter")',
    )
    adopt.parser.add_argument("name", nargs="?", metavar="CLUSTER", help="see ps")
    yield adopt

    connect = line_verb(
        NODES,
        "connect",
        "Connect to a running cluster by the URL of any of its nodes.",
        "connect ws://10.0.0.5:7400",
        twin='mp.connect("ws://10.0.0.5:7400")',
    )
    connect.parser.add_argument("urls", nargs="+", metavar="URL")
    yield connect


def _of_functions() -> Iterator[Verb]:
    register = line_verb(
        FUNCTIONS,
        "register",
        "Ship functions of this notebook to the nodes.",
        "register train --resources gpu",
        "register load clean --idempotent",
        twin='cluster.register(train, resources={"gpu"})',
    )
    register.parser.add_argument(
        "names", nargs="+", metavar="NAME", help="variables that hold functions"
    )
    add_registration(register.parser)
    yield register

    call = line_verb(
        FUNCTIONS,
        "call",
        "Call a function of the cluster; its arguments are Python expressions.",
        "call train(rows, lr=0.2)",
        twin='cluster.call("train", rows, lr=0.2)',
    )
    call.parser.usage = "%%mpreg call FUNCTION(ARGUMENTS)"
    yield call

    yield line_verb(
        FUNCTIONS,
        "kept",
        "List what remote cells keep on nodes: names, and where.",
        more="Made by %%mpreg remote --keep NAME. It ends with its node, its process, "
        "this kernel, or by %mpreg forget NAME.",
    )

    forget = line_verb(
        FUNCTIONS, "forget", "Drop what remote cells keep on a node.", "forget work"
    )
    forget.parser.add_argument("names", nargs="+", metavar="NAME", help="see kept")
    yield forget

    functions = line_verb(
        FUNCTIONS,
        "functions",
        "List functions, their nodes and how often they were called.",
        "functions",
        "functions train*",
        twin='cluster.functions("train*")',
    )
    functions.parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN")
    yield functions


def _of_workflows() -> Iterator[Verb]:
    plan = line_verb(
        WORKFLOWS,
        "plan",
        "Show where each step would run now, and why.",
        "plan flow",
        twin="flow.plan()",
    )
    draw = line_verb(
        WORKFLOWS,
        "draw",
        "Draw a workflow, or a run with its states.",
        "draw flow",
        "draw run",
        twin="flow or run, as the value of a cell",
    )
    run = line_verb(
        WORKFLOWS,
        "run",
        "Execute a workflow and wait for its end.",
        "run flow",
        "run flow -a -o nightly",
        'run flow(sensor="s-7")',
        twin='flow.run(sensor="s-7") or, with -a, flow.start()',
        more="Inputs are keyword arguments, as in a call in Python.",
    )
    for verb in (plan, draw, run):
        verb.parser.add_argument(
            "flow", metavar="FLOW", help="a variable, or the name of a workflow"
        )
        yield verb
    run.parser.add_argument("-a", action="store_true", help="do not wait for its end")
    add_target(run.parser)

    yield line_verb(
        WORKFLOWS,
        "runs",
        "List runs of workflows, the newest first.",
        twin="cluster.runs()",
    )

    why = line_verb(
        WORKFLOWS,
        "why",
        "Explain why a step ran where it did: candidates, loads, choice.",
        "why run.stats",
        "why sensor-report.stats",
        twin='run.why("stats")',
    )
    why.parser.add_argument(
        "step", metavar="RUN.STEP", help="a variable, or the name or id of a run"
    )
    yield why

    cancel = line_verb(
        WORKFLOWS, "cancel", "Cancel a run.", "cancel nightly", twin="run.cancel()"
    )
    cancel.parser.add_argument("run", metavar="RUN", help="as for %%mpreg why")
    yield cancel


def _of_drills() -> Iterator[Verb]:
    kill = line_verb(
        DRILLS,
        "kill",
        "End a node at once, as a crash would.",
        "kill gpu-1",
        twin='cluster.kill("gpu-1")',
        more="%mpreg up starts it again.",
    )
    kill.parser.add_argument("node", metavar="NODE")
    yield kill

    pause = line_verb(
        DRILLS,
        "pause",
        "Pause a node for a while, as a machine out of memory would.",
        "pause gpu-1 5",
        twin='cluster.pause("gpu-1", 5)',
    )
    pause.parser.add_argument("node", metavar="NODE")
    pause.parser.add_argument(
        "seconds", type=float, metavar="SECONDS", help="how long, at most 600"
    )
    yield pause

    partition = line_verb(
        DRILLS,
        "partition",
        "Cut the network between two groups of nodes for a while.",
        "partition n1|n2,n3 10",
        twin='cluster.partition(["n1"], ["n2", "n3"], 10)',
    )
    partition.parser.add_argument(
        "sides", type=sides, metavar="A|B", help="nodes, with commas: n1,n2|n3"
    )
    partition.parser.add_argument(
        "seconds", type=float, metavar="SECONDS", help="how long, at most 600"
    )
    yield partition


LINE_VERBS = {
    verb.name: verb
    for verbs in (_of_nodes, _of_functions, _of_workflows, look_verbs, _of_drills)
    for verb in verbs()
}
