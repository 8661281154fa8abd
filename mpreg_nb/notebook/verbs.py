"""The verbs of `%mpreg` and `%%mpreg`: what each takes, and what it does."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from mpreg_nb.cluster.config import KEYS, Key
from mpreg_nb.errors import WorkflowFailed
from mpreg_nb.names import nearest
from mpreg_nb.notebook.parser import (
    LineParser,
    Misuse,
    Verb,
    VerbOptions,
    add_registration,
    add_target,
    arguments,
    keys,
    line_verb,
    resources,
    sides,
)
from mpreg_nb.notebook.remote_cell import check_syntax
from mpreg_nb.notebook.session import Session, check_variable

if TYPE_CHECKING:
    from mpreg_nb.cluster.function import Function


LOOK = "inspect"
VIEWS = ("members", "topology", "routes", "latency", "calls", "runs")


def look_verbs() -> Iterator[Verb]:
    """Yield the verbs that show something."""
    for name, title in (
        ("status", "Show the cluster at a glance; so does %mpreg alone."),
        ("nodes", "List nodes: state, resources, load."),
        ("routes", "Show how many calls from here each node took."),
        ("calls", "List the last calls from here, and where their time went."),
        ("events", "List events: nodes and functions that came, failed or left."),
    ):
        yield line_verb(LOOK, name, title, twin=f"cluster.{name}()")

    latency = line_verb(
        LOOK,
        "latency",
        "Show latency percentiles of calls from here.",
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

    watch = line_verb(
        LOOK,
        "watch",
        "Watch the cluster live, while cells run.",
        "watch",
        "watch members topology",
        "watch calls",
        twin='cluster.watch("members", "topology")',
        more="Without a name it shows all views: " + ", ".join(VIEWS) + ".",
    )
    watch.parser.add_argument("views", nargs="*", metavar="VIEW")
    yield watch

    logs = line_verb(
        LOOK,
        "logs",
        "Show the logs of nodes. Prints of functions appear in the cells instead.",
        "logs gpu-1",
        "logs -n 200",
        "logs gpu-1 -f",
        twin='cluster.logs("gpu-1", lines=50)',
    )
    logs.parser.add_argument("node", nargs="?", metavar="NODE", help="else all")
    logs.parser.add_argument(
        "-f", action="store_true", help="follow the logs until Stop"
    )
    logs.parser.add_argument(
        "-n", dest="lines", type=int, metavar="50", help="lines per node"
    )
    yield logs

    bench = line_verb(
        LOOK,
        "bench",
        "Measure calls, maps and workflows, on two separate nodes.",
        "bench",
        "bench --here --only map",
        twin='mp.bench(quick=True, cluster=cluster, only="map")',
    )
    bench.parser.add_argument(
        "--full", action="store_true", help="more repetitions; takes minutes"
    )
    bench.parser.add_argument(
        "--here", action="store_true", help="on the current cluster"
    )
    bench.parser.add_argument(
        "--only", default="", metavar="WORD", help="only rows whose name contains this"
    )
    yield bench

    yield line_verb(
        LOOK,
        "doctor",
        "Check versions, front end, ports and leftovers, and suggest fixes.",
    )

    config = line_verb(
        LOOK,
        "config",
        "Show or set the defaults of this kernel.",
        "config",
        "config workers",
        "config progress_after_s 5",
        twin='mp.config("progress_after_s", 5)',
        more="\n".join(map(_explained, KEYS.values())),
    )
    config.parser.add_argument("key", nargs="?", metavar="KEY")
    config.parser.add_argument("value", nargs="?", metavar="VALUE")
    yield config

    help_ = line_verb(LOOK, "help", "Explain a verb, or list all.", "help", "help up")
    help_.parser.add_argument("verb", nargs="?", metavar="VERB")
    yield help_


def _explained(key: Key) -> str:
    text = f"{key.name}: {key.rule}, else {key.default}. {key.meaning}"
    return fill(text, width=80, subsequent_indent="  ")


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


CELLS = "cells"


def _verb(name: str, description: str, *examples: str) -> Verb:
    parser = LineParser(f"%%mpreg {name}", description)
    return Verb(name=name, group=CELLS, parser=parser, examples=examples)


def _verbs() -> Iterator[Verb]:
    register = _verb(
        "register",
        "Run the cell here and register the functions that it defines.\n\n"
        "Functions whose name begins with _ are not registered; they are sent with\n"
        "the functions that use them.",
        "register --resources gpu",
    )
    add_registration(register.parser)
    yield register

    remote = _verb(
        "remote",
        "Run the cell once on a node that fits.\n\n"
        "Its prints and displays appear here as they happen; its last expression is\n"
        "the value. Variables of the notebook that it reads are sent with it, by\n"
        "value.\n\n"
        "These lines of IPython run on the node: !command, names = !command, %time,\n"
        "%timeit, %cd, %pwd, %env, %pip (of the Python of the node), %conda, and\n"
        "%%time, %%timeit, %%bash, %%sh or %%writefile as the next line. All other\n"
        "magics raise a usage error before anything runs.",
        "remote --on gpu -o model",
        "remote --node n2 --timeout 60",
        "remote --keep work",
    )
    add = remote.parser.add_argument
    _add_place(remote.parser)
    add("--node", metavar="NAME", help="only on this node")
    add(
        "--keep",
        metavar="NAME",
        help="share names with all cells that keep NAME: one process on one node",
    )
    _add_timeout(remote.parser)
    add_target(remote.parser)
    yield remote

    everywhere = _verb(
        "everywhere",
        "Run the cell on every node that fits, at the same time.\n\n"
        "Like remote, but the value is a dict of node -> value. If some nodes fail,\n"
        "the values of the others are shown before the error, and stored with -o.",
        "everywhere",
        "everywhere --on gpu -o sizes",
    )
    _add_place(everywhere.parser)
    _add_timeout(everywhere.parser)
    add_target(everywhere.parser)
    yield everywhere

    step = _verb(
        "step",
        "Make the cell a step of a workflow. Run again, the cell replaces the step.\n\n"
        "Inputs: variables that the cell reads and other step cells assign, and names\n"
        "of steps, which stand for their whole results. Other variables of the\n"
        "notebook are sent by value.\n"
        "Outputs: variables that the cell assigns, for later step cells; not those\n"
        "that begin with _. Several outputs make the result a dict; without outputs,\n"
        "the last expression is the result.",
        "step clean --flow report --on cpu",
        "step raw --flow report --input sensor,day",
        "step stats --flow report --retry 2 --timeout 30",
    )
    add = step.parser.add_argument
    add("step", metavar="NAME", help="name of the step")
    add(
        "--flow",
        required=True,
        metavar="FLOW",
        help="the workflow; created if there is none",
    )
    _add_place(step.parser)
    add(
        "--input",
        type=_names,
        default=(),
        metavar="name,name",
        help="names that the cell reads and %%mpreg run FLOW(NAME=…) gives",
    )
    add("--retry", type=int, default=0, metavar="N", help="more attempts if it fails")
    _add_timeout(step.parser)
    add(
        "--after",
        type=_names,
        default=(),
        metavar="step,step",
        help="run after these steps",
    )
    yield step


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _add_place(parser: LineParser) -> None:
    parser.add_argument(
        "--on",
        type=resources,
        default=frozenset(),
        metavar="res,res",
        help="only on nodes that hold all of these",
    )


def _add_timeout(parser: LineParser) -> None:
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds until it is cancelled"
    )


CELL_VERBS = {verb.name: verb for verb in _verbs()}


def split_verb(line: str, *, of_cell: bool = False) -> tuple[Verb, str]:
    """Return the verb of `line` and the rest; an empty line means `status`.

    Raises:
        Misuse: there is no such verb; the nearest is named.
    """
    verbs = CELL_VERBS if of_cell else LINE_VERBS
    word, _, rest = line.strip().partition(" ")
    if word.startswith("#"):  # a comment is all there is
        word = rest = ""
    if not word and not of_cell:
        word = "status"
    elif word in ("-h", "--help"):
        word = "help"
    if word in verbs:
        return verbs[word], rest.strip()
    mark = "%%mpreg" if of_cell else "%mpreg"
    known = ", ".join(verbs)
    if not word:
        raise Misuse(f"{mark} needs a verb: {known}")
    if word in (LINE_VERBS if of_cell else CELL_VERBS):
        other = "%mpreg" if of_cell else "%%mpreg"
        raise Misuse(f"{mark} has no verb {word!r}, but {other} has: {other} {word}")
    meant = nearest(word, verbs)
    hint = f"Did you mean {mark} {meant}? All: %mpreg help" if meant else ""
    raise Misuse(f"{mark} has no verb {word!r}. {hint or f'It has: {known}'}")


def overview() -> str:
    """Return one line a verb, by group."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for mark, verbs in (("%mpreg", LINE_VERBS), ("%%mpreg", CELL_VERBS)):
        for verb in verbs.values():
            line = f"{mark} {verb.examples[0]}"
            groups.setdefault(verb.group, []).append((line, verb.title))
    width = max(len(line) for lines in groups.values() for line, _ in lines)
    parts = [
        "\n".join(
            [f"{group}:", *(f"  {line:{width}}  {title}" for line, title in lines)]
        )
        for group, lines in groups.items()
    ]
    return "\n\n".join([*parts, "%mpreg help VERB explains one; %mpreg? has examples."])


def up(session: Session, options: VerbOptions) -> Any:
    """Start nodes and return the cluster."""
    from mpreg_nb.cluster.api import up
    from mpreg_nb.cluster.current import all_clusters

    if options.nodes and options.count is not None:
        raise Misuse("give names or a number, not both: %mpreg up -n 3")
    before = [(cluster, cluster.urls) for cluster in all_clusters()]
    with arguments():
        cluster = up(
            options.nodes or (3 if options.count is None else options.count),
            workers=options.workers,
            slots=options.slots,
            keep=options.keep,
            fresh=options.fresh,
        )
    if (cluster, cluster.urls) in before:
        print("already up")  # noqa: T201 - said, since nothing else shows it
    return cluster


def down(session: Session, options: VerbOptions) -> Any:
    """End the cluster or some of its nodes; return the names of those that ended."""
    from mpreg_nb.cluster.api import down

    if not options.names:
        return down()
    with arguments():
        session.cluster.remove(*options.names)
    return tuple(options.names)


def ps(session: Session, options: VerbOptions) -> Any:
    """Return the frame of all nodes of this user."""
    from mpreg_nb.cluster.api import ps

    return ps()


def adopt(session: Session, options: VerbOptions) -> Any:
    """Connect to a kept cluster and return it."""
    from mpreg_nb.cluster.api import adopt

    with arguments():
        return adopt(options.name)


def connect(session: Session, options: VerbOptions) -> Any:
    """Connect to a cluster by URL and return it."""
    from mpreg_nb.cluster.api import connect

    with arguments():
        return connect(*options.urls)


def kill(session: Session, options: VerbOptions) -> Any:
    """End a node as a crash would."""
    with arguments():
        return session.cluster.kill(options.node)


def pause(session: Session, options: VerbOptions) -> Any:
    """Pause a node for some seconds."""
    with arguments():
        return session.cluster.pause(options.node, options.seconds)


def partition(session: Session, options: VerbOptions) -> Any:
    """Cut the network between two sides for some seconds."""
    here, there = options.sides
    with arguments():
        return session.cluster.partition(here, there, options.seconds)


def sides_joined(line: str) -> str:
    """Return `line` without the spaces around commas and the bar.

    >>> sides_joined("n1, n2 | n3 10")
    'n1,n2|n3 10'
    """
    return re.sub(r"\s*([|,])\s*", r"\1", line)


def method(name: str) -> Callable[[Session, VerbOptions], Any]:
    """Return the verb that calls the cluster's method `name`, without arguments."""
    return lambda session, options: getattr(session.cluster, name)()


def functions(session: Session, options: VerbOptions) -> Any:
    """Return the frame of functions."""
    return session.cluster.functions(options.pattern)


def latency(session: Session, options: VerbOptions) -> Any:
    """Return the frame of latencies."""
    return session.cluster.latency(options.by)


def watch(session: Session, options: VerbOptions) -> Any:
    """Return a live view."""
    with arguments():
        return session.cluster.watch(*options.views)


def logs(session: Session, options: VerbOptions) -> Any:
    """Return the last lines of logs; with -f print them until Stop or their end."""
    cluster = session.cluster
    given = {} if options.lines is None else {"lines": options.lines}
    if not options.f:
        with arguments():
            return cluster.logs(options.node, **given)
    with arguments():
        lines = cluster.follow_logs(options.node, **given)
    try:
        for line in lines:
            print(line, flush=True)  # noqa: T201 - it is what was asked for
    except KeyboardInterrupt:
        return None  # how one says that it is enough
    return None


def bench(session: Session, options: VerbOptions) -> Any:
    """Measure, and return what was measured."""
    import mpreg_nb

    cluster = session.cluster if options.here else None
    with arguments():
        return mpreg_nb.bench(not options.full, cluster, only=options.only)


def doctor(session: Session, options: VerbOptions) -> Any:
    """Return what is wrong here, with cures."""
    from mpreg_nb.cluster.doctor import examine

    return examine()


def config(session: Session, options: VerbOptions) -> Any:
    """Return all values, or one, which is set first where a value is given."""
    from mpreg_nb.cluster.config import config

    try:
        with arguments():
            if options.value is None:
                return config(options.key)
            return config(options.key, _value(options.value))
    except AttributeError as error:
        raise Misuse(str(error)) from None


def _value(text: str) -> Any:
    """Return what `text` says in Python, or the word itself.

    >>> _value("5"), _value("true"), _value("inf"), _value("soon")
    (5, True, inf, 'soon')
    """
    words = {"true": True, "false": False, "inf": float("inf")}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class CallExpression(NamedTuple):
    """A call as it was written, its arguments evaluated."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(session: Session, text: str) -> Any:
    """Call a function of the cluster as `text` says, and return what it returns."""
    __tracebackhide__ = True
    from mpreg_nb.cluster.function import Function

    asked = read_call(session, text, "call", "train(rows, lr=0.2)")
    cluster = session.cluster
    held = session.shell.user_ns.get(asked.name)
    # Decorated before there was a cluster, a function is registered at first use.
    if isinstance(held, Function) and cluster.client.offer(held.name) is None:
        return held.call(*asked.args, **asked.kwargs)
    return cluster.call(asked.name, *asked.args, **asked.kwargs)


def read_call(session: Session, text: str, verb: str, example: str) -> CallExpression:
    """Read `name(arguments)`, also with the name in quotes.

    Raises:
        Misuse: it is no call, or names a variable that there is not.
    """
    usage = f"write a call as in Python: %mpreg {verb} {example}"
    try:
        found = ast.parse(text, "<call>", "eval").body if text else None
    except SyntaxError as error:
        raise Misuse(f"{error.msg}: {text}. W{usage[1:]}") from None
    match found:
        case ast.Call(func=ast.Name(id=name) | ast.Constant(value=str(name))):
            pass
        case ast.Name(id=name):
            raise Misuse(f"arguments are missing: %mpreg {verb} {name}()")
        case _:
            raise Misuse(usage)
    keys = [None if k.arg is None else ast.Constant(k.arg) for k in found.keywords]
    values = [keyword.value for keyword in found.keywords]
    given = ast.Tuple([*found.args], ast.Load()), ast.Dict([*keys], values)
    shell: Any = session.shell
    try:
        args, kwargs = (shell.ev(ast.unparse(part)) for part in given)
    except NameError as error:
        wrong = error.name or ""
        meant = nearest(wrong, session.variables)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise Misuse(f"the notebook has no variable {wrong!r}.{hint}") from None
    return CallExpression(name, args, kwargs)


_WITH_INPUTS = re.compile(r"(?P<before>.*?)(?P<call>[^\W\d]\w*\(.*\))(?P<after>[^)]*)")


def inputs_of(session: Session, verb: str, line: str) -> tuple[str, dict[str, Any]]:
    """Take `(sensor="s-7")` after the workflow out of `line`; return both.

    Raises:
        Misuse: the inputs are not given by name.
    """
    found = _WITH_INPUTS.fullmatch(line)
    if found is None or re.search(r"(^|\s)#", found["before"]):
        return line, {}
    asked = read_call(session, found["call"], verb, 'flow(sensor="s-7")')
    if asked.args:
        raise Misuse(f"inputs are given by name: %mpreg {verb} {asked.name}(NAME=…)")
    return f"{found['before']}{asked.name}{found['after']}", asked.kwargs


def plan(session: Session, options: VerbOptions) -> Any:
    """Return where each step would run now."""
    flow = session.flow(options.flow)
    with arguments():
        return flow.plan(**options.inputs)


def draw(session: Session, options: VerbOptions) -> Any:
    """Return a workflow or a run, which draws itself."""
    return session.flow_or_run(options.flow)


def run(session: Session, options: VerbOptions) -> Any:
    """Execute a workflow and return its run; None where it is kept in a variable."""
    __tracebackhide__ = True
    flow = session.flow(options.flow)
    if options.target is not None:
        check_variable(options.target)
    begin = flow.start if options.a else flow.run
    try:
        run = begin(**options.inputs)
    except WorkflowFailed as error:
        if options.target is not None:
            session.keep(options.target, error.run)
        raise
    if options.target is None:
        return run
    session.keep(options.target, run)
    return None


def why(session: Session, options: VerbOptions) -> Any:
    """Return why a step ran where it did."""
    run, step = _step(session, options.step)
    return run.why(step)


def cancel(session: Session, options: VerbOptions) -> Any:
    """End a run."""
    return session.run(options.run).cancel()


def _step(session: Session, text: str) -> tuple[Any, str]:
    """Read RUN.STEP; both names may have dots in them."""
    places = [place for place, letter in enumerate(text) if letter == "."]
    pairs = [(text[:place], text[place + 1 :]) for place in places]
    pairs = [(run, step) for run, step in pairs if run and step]
    if not pairs:
        raise Misuse(
            f"{text!r} is not a step of a run. Write RUN.STEP: %mpreg why run.a"
        )
    refusals: list[Misuse] = []
    for name, step in pairs:
        try:
            run = session.run(name)
        except Misuse as error:
            refusals.append(error)
            continue
        steps = [state.name for state in run.steps]
        if step in steps:
            return run, step
        meant = nearest(step, steps)
        hint = (
            f"Did you mean {meant!r}?"
            if meant
            else f"The steps are: {', '.join(steps)}"
        )
        refusals.insert(0, Misuse(f"run {name!r} has no step {step!r}. {hint}"))
    raise refusals[0]


class RegisteredFunctions(tuple["Function[Any, Any]", ...]):
    """Functions that were registered together; shows their cards."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import registration_bundle

        cards = [function.card for function in self if function.card is not None]
        return registration_bundle(cards, include, exclude)


def register_names(session: Session, options: VerbOptions) -> Any:
    """Register the functions that are in the variables `options.names`."""
    found = {name: session.variable(name) for name in options.names}
    for name, value in found.items():
        if not callable(value):
            raise Misuse(
                f"{name!r} is not a function but of type {type(value).__name__}"
            )
    return _register(session, found, options)


def register_cell(session: Session, options: VerbOptions, cell: str) -> Any:
    """Run `cell` here, then register the functions that it defined."""
    _ = session.cluster  # where there is none, nothing shall run
    source, filename = _cached(session, cell)
    check_syntax(source, filename)
    names = [name for name in _defined(ast.parse(source)) if not name.startswith("_")]
    if not names:
        raise Misuse(
            "the cell defines no function to register. Write a `def` at the left "
            "edge, with a name that does not begin with _"
        )
    variables = session.shell.user_ns
    exec(compile(source, filename, "exec"), variables)  # noqa: S102 - the user's cell
    return _register(session, {name: variables[name] for name in names}, options)


def _register(
    session: Session, found: dict[str, Callable[..., Any]], options: VerbOptions
) -> Any:
    with arguments():
        made = {name: _function(value, options) for name, value in found.items()}
    registered = RegisteredFunctions(map(session.cluster.register, made.values()))
    # All are registered as they were defined; only then do they get their verbs.
    session.shell.user_ns.update(
        {name: function for name, function in made.items() if name.isidentifier()}
    )
    return registered[0] if len(registered) == 1 else registered


def _function(value: Any, options: VerbOptions) -> "Function[Any, Any]":
    from mpreg_nb.cluster.current import current
    from mpreg_nb.cluster.function import Function

    known = {
        "resources": options.resources,
        "idempotent": options.idempotent,
        "isolation": options.isolation or "process",
    }
    if not isinstance(value, Function):
        return Function(value, **known, cluster=current)
    if not options.resources and not options.idempotent and options.isolation is None:
        return value  # decorated, and nothing else is asked for
    return Function(value.local, name=value.name, **known, cluster=current)


def _cached(session: Session, cell: str) -> tuple[str, str]:
    """Return the Python of `cell`, and the file name that tracebacks know it by."""
    shell: Any = session.shell
    source = shell.transform_cell(cell)
    return source, shell.compile.cache(source, shell.execution_count, raw_code=cell)


def _defined(tree: ast.Module) -> Iterable[str]:
    def names() -> Iterator[str]:
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                yield statement.name

    return dict.fromkeys(names())
