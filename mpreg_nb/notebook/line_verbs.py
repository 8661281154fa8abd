"""The verbs of `%mpreg`: what each takes, in the order in which help lists them."""

from collections.abc import Iterator

from mpreg_nb.notebook.line import LineParser, Verb, keys, resources, sides

NODES, FUNCTIONS, WORKFLOWS, LOOK, DRILLS = (
    "nodes",
    "functions",
    "workflows",
    "look",
    "drills, on clusters that this notebook started",
)

VIEWS = ("members", "topology", "routes", "latency", "runs")


def _verb(
    group: str, name: str, title: str, *examples: str, twin: str = "", more: str = ""
) -> Verb:
    parser = LineParser(f"%mpreg {name}", f"{title}\n\n{more}" if more else title)
    return Verb(
        name=name,
        group=group,
        parser=parser,
        examples=examples or (name,),
        twin=twin,
    )


def _of_nodes() -> Iterator[Verb]:
    up = _verb(
        NODES,
        "up",
        "Start nodes on this machine; what runs already stays.",
        "up gpu-1:gpu,ml-models cpu-1:cpu",
        "up -n 3 --workers 2",
        "up --keep",
        twin='mp.up({"gpu-1": {"gpu", "ml-models"}, "cpu-1": "cpu"}, workers=1)',
        more="A node that died, or shall hold other resources, is started again.",
    )
    add = up.parser.add_argument
    add("nodes", nargs="*", metavar="NAME[:res,res]", help="a node and what it holds")
    add("-n", dest="count", type=int, metavar="3", help="so many nodes: n1, n2, …")
    add("--workers", type=int, metavar="1", help="processes per node")
    add("--slots", type=int, metavar="1", help="calls at once per worker")
    add("--keep", action="store_true", default=None, help="they outlive this kernel")
    add("--fresh", action="store_true", help="end the nodes that run first")
    yield up

    down = _verb(
        NODES,
        "down",
        "End the cluster, or only these nodes.",
        "down",
        "down gpu-1",
        twin='mp.down() or cluster.remove("gpu-1")',
        more="One that was only joined is left, and its nodes run on.",
    )
    down.parser.add_argument("names", nargs="*", metavar="NAME")
    yield down

    yield _verb(
        NODES, "ps", "List every node that you started on this machine.", twin="mp.ps()"
    )

    adopt = _verb(
        NODES,
        "adopt",
        "Take over a cluster that was started with --keep, with its runs.",
        "adopt",
        "adopt calm-otter",
        twin='mp.adopt("calm-otter")',
    )
    adopt.parser.add_argument("name", nargs="?", metavar="CLUSTER", help="see ps")
    yield adopt

    connect = _verb(
        NODES,
        "connect",
        "Join a cluster that runs already, by the URL of a node.",
        "connect ws://10.0.0.5:7400",
        twin='mp.connect("ws://10.0.0.5:7400")',
    )
    connect.parser.add_argument("urls", nargs="+", metavar="URL")
    yield connect


def _of_functions() -> Iterator[Verb]:
    register = _verb(
        FUNCTIONS,
        "register",
        "Ship functions of this notebook to the nodes.",
        "register train --resources gpu",
        "register load clean --idempotent",
        twin='cluster.register(train, resources={"gpu"})',
    )
    register.parser.add_argument("names", nargs="+", metavar="NAME")
    add_registration(register.parser)
    yield register

    call = _verb(
        FUNCTIONS,
        "call",
        "Call a function of the cluster; arguments are Python.",
        "call train(rows, lr=0.2)",
        twin='cluster.call("train", rows, lr=0.2)',
    )
    call.parser.usage = "%%mpreg call FUNCTION(ARGUMENTS)"
    yield call

    functions = _verb(
        FUNCTIONS,
        "functions",
        "List functions: where they are, how often they were called.",
        "functions",
        "functions train*",
        twin='cluster.functions("train*")',
    )
    functions.parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN")
    yield functions


def _of_workflows() -> Iterator[Verb]:
    plan = _verb(
        WORKFLOWS,
        "plan",
        "Say where each step would run now, and why.",
        "plan flow",
        twin="flow.plan()",
    )
    draw = _verb(
        WORKFLOWS,
        "draw",
        "Draw a workflow, or a run with its states.",
        "draw flow",
        "draw run",
        twin="flow or run, as the value of a cell",
    )
    run = _verb(
        WORKFLOWS,
        "run",
        "Execute a workflow and wait for its end.",
        "run flow",
        "run flow -a -o nightly",
        'run flow(sensor="s-7")',
        twin='flow.run(sensor="s-7") or, with -a, flow.start()',
        more="Its inputs are given as in a call, as Python.",
    )
    for verb in (plan, draw, run):
        verb.parser.add_argument(
            "flow", metavar="FLOW", help="a variable, or the name of a workflow"
        )
        yield verb
    run.parser.add_argument("-a", action="store_true", help="do not wait for its end")
    add_target(run.parser)

    yield _verb(
        WORKFLOWS,
        "runs",
        "List runs of workflows, the newest first.",
        twin="cluster.runs()",
    )

    why = _verb(
        WORKFLOWS,
        "why",
        "Say why a step ran where it did: candidates, loads, choice.",
        "why run.stats",
        "why sensor-report.stats",
        twin='run.why("stats")',
    )
    why.parser.add_argument(
        "step", metavar="RUN.STEP", help="a variable, or the name or id of a run"
    )
    yield why

    cancel = _verb(
        WORKFLOWS, "cancel", "End a run.", "cancel nightly", twin="run.cancel()"
    )
    cancel.parser.add_argument("run", metavar="RUN", help="as for why")
    yield cancel


def _to_look() -> Iterator[Verb]:
    for name, title in (
        ("status", "Show the cluster at a glance; so does %mpreg alone."),
        ("nodes", "List nodes: state, resources, load."),
        ("routes", "Which node took how many calls from here."),
        ("calls", "The last calls from here, with the parts of their time."),
        ("events", "What happened to nodes and functions."),
    ):
        yield _verb(LOOK, name, title, twin=f"cluster.{name}()")

    latency = _verb(
        LOOK,
        "latency",
        "Percentiles of how long calls from here took.",
        "latency",
        "latency --by function,node",
        twin='cluster.latency(by="node")',
    )
    latency.parser.add_argument(
        "--by",
        type=keys,
        default=("function",),
        metavar="function|node|function,node",
        help="a row for each of these",
    )
    yield latency

    watch = _verb(
        LOOK,
        "watch",
        "Watch the cluster live, while cells run.",
        "watch",
        "watch members topology",
        twin='cluster.watch("members", "topology")',
        more="Without a name it shows all views: " + ", ".join(VIEWS) + ".",
    )
    watch.parser.add_argument("views", nargs="*", metavar="VIEW")
    yield watch

    logs = _verb(
        LOOK,
        "logs",
        "Show what nodes logged. Prints of functions are in the cells instead.",
        "logs gpu-1",
        "logs -n 200",
        "logs gpu-1 -f",
        twin='cluster.logs("gpu-1", lines=50)',
    )
    logs.parser.add_argument("node", nargs="?", metavar="NODE", help="else all")
    logs.parser.add_argument("-f", action="store_true", help="go on until Stop")
    logs.parser.add_argument(
        "-n", dest="lines", type=int, metavar="50", help="the last so many of each node"
    )
    yield logs

    bench = _verb(
        LOOK,
        "bench",
        "Measure calls, maps and workflows on this machine.",
        twin="mp.bench(quick=True)",
    )
    bench.parser.add_argument(
        "--full", action="store_true", help="more repetitions; takes minutes"
    )
    yield bench

    yield _verb(
        LOOK,
        "doctor",
        "Check versions, front end, ports, leftovers; say what cures them.",
    )

    config = _verb(
        LOOK,
        "config",
        "Show or set what this kernel does where nothing else is said.",
        "config",
        "config workers",
        "config progress_after_s 5",
        twin='mp.config("progress_after_s", 5)',
    )
    config.parser.add_argument("key", nargs="?", metavar="KEY")
    config.parser.add_argument("value", nargs="?", metavar="VALUE")
    yield config

    help_ = _verb(LOOK, "help", "Explain a verb, or list all.", "help", "help up")
    help_.parser.add_argument("verb", nargs="?", metavar="VERB")
    yield help_


def _of_drills() -> Iterator[Verb]:
    kill = _verb(
        DRILLS,
        "kill",
        "End a node at once, as a crash would.",
        "kill gpu-1",
        twin='cluster.kill("gpu-1")',
        more="%mpreg up starts it again.",
    )
    kill.parser.add_argument("node", metavar="NODE")
    yield kill

    pause = _verb(
        DRILLS,
        "pause",
        "Freeze a node for a while, as a machine that swaps would.",
        "pause gpu-1 5",
        twin='cluster.pause("gpu-1", 5)',
    )
    pause.parser.add_argument("node", metavar="NODE")
    pause.parser.add_argument("seconds", type=float, metavar="SECONDS")
    yield pause

    partition = _verb(
        DRILLS,
        "partition",
        "Cut the network between some nodes and others for a while.",
        "partition n1|n2,n3 10",
        twin='cluster.partition(["n1"], ["n2", "n3"], 10)',
    )
    partition.parser.add_argument(
        "sides", type=sides, metavar="A|B", help="nodes, with commas: n1,n2|n3"
    )
    partition.parser.add_argument("seconds", type=float, metavar="SECONDS")
    yield partition


def add_registration(parser: LineParser) -> None:
    """Let `parser` take what registrations take."""
    parser.add_argument(
        "--resources",
        type=resources,
        default=frozenset(),
        metavar="res,res",
        help="only on nodes that hold all of these",
    )
    parser.add_argument(
        "--idempotent", action="store_true", help="running it twice does no harm"
    )
    parser.add_argument(
        "--isolation",
        choices=("process", "thread"),
        help="thread: in the node itself; it cannot be killed",
    )


def add_target(parser: LineParser) -> None:
    """Let `parser` take the name of a variable for the value."""
    parser.add_argument(
        "-o", dest="target", metavar="NAME", help="keep it in NAME, show nothing"
    )


LINE_VERBS = {
    verb.name: verb
    for verbs in (_of_nodes, _of_functions, _of_workflows, _to_look, _of_drills)
    for verb in verbs()
}
