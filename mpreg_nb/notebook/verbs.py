"""The verbs of `%mpreg` and `%%mpreg`: what each takes, and what it does."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from mpreg_nb.cluster.config import KEYS, Key
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import WorkflowFailed
from mpreg_nb.names import nearest
from mpreg_nb.notebook import remote_cell
from mpreg_nb.notebook.parser import (
    Misuse,
    Verb,
    VerbOptions,
    Verbs,
    arguments,
    keys,
    names,
    option,
    resources,
    sides,
    without_comment,
)
from mpreg_nb.notebook.remote_cell import check_syntax
from mpreg_nb.notebook.session import Session, check_variable

if TYPE_CHECKING:
    from mpreg_nb.cluster.function import Function


VIEWS = ("members", "topology", "routes", "latency", "calls", "runs")

LINE = Verbs("%mpreg")
CELL = Verbs("%%mpreg")

_ON = option(
    "--on",
    type=resources,
    default=frozenset(),
    metavar="res,res",
    help="only on nodes that hold all of these",
    completes="resource",
)
_TIMEOUT = option(
    "--timeout", type=float, metavar="S", help="seconds until it is cancelled"
)
_TARGET = option(
    "-o", dest="target", metavar="NAME", help="store it in NAME, show nothing"
)
_REGISTRATION = (
    option(
        "--resources",
        type=resources,
        default=frozenset(),
        metavar="res,res",
        help="only on nodes that hold all of these",
        completes="resource",
    ),
    option("--idempotent", action="store_true", help="running it twice does no harm"),
    option(
        "--isolation",
        choices=("process", "thread"),
        help="thread: in a thread of the node, which cannot be killed",
        completes="isolation",
    ),
)
_SECONDS = option(
    "seconds", type=float, metavar="SECONDS", help="how long, at most 600"
)
_FLOW = option("flow", metavar="FLOW", help="a variable, or the name of a workflow")


# ----------------------------------------------------------------------- nodes

NODES = "nodes"


@LINE.verb(
    NODES,
    "Start nodes, here and on other machines; nodes that already run are kept.",
    "up gpu-1:gpu,ml-models cpu-1:cpu",
    "up lab:cpu --ssh gpu-1:gpu --ssh ada@box.lan:disk",
    "up --slurm train:gpu --sbatch '--gres=gpu:1 --time=4:00:00'",
    "up -n 3 --workers 2",
    "up --keep",
    options=(
        option(
            "nodes",
            nargs="*",
            metavar="NAME[:res,res]",
            help="a node and its resources",
        ),
        option(
            "-n", dest="count", type=int, metavar="3", help="number of nodes: n1, n2, …"
        ),
        option("--workers", type=int, metavar="1", help="processes per node"),
        option("--slots", type=int, metavar="1", help="calls at once per worker"),
        option(
            "--keep",
            action="store_true",
            default=None,
            help="nodes outlive this kernel",
        ),
        option("--fresh", action="store_true", help="end running nodes first"),
        option(
            "--ssh",
            action="append",
            default=[],
            metavar="HOST[/NAME][:res,res]",
            help="a node on a host that ssh reaches; may be repeated",
        ),
        option("--python", default="", metavar="PATH", help="interpreter of hosts"),
        option(
            "--install", action="store_true", help="make an environment on hosts, once"
        ),
        option(
            "--packages",
            type=names,
            default=(),
            metavar="A,B",
            help="what else it has; kernel: what functions here import",
        ),
        option(
            "--slurm",
            action="append",
            default=[],
            metavar="NAME[:res,res]",
            help="a node that is a job of Slurm; may be repeated",
        ),
        option("--sbatch", default="", metavar="OPTIONS", help="options of these jobs"),
        option(
            "--via",
            choices=("tunnel", "tls"),
            help="links between machines: tunnels (default), or TLS and open ports",
        ),
    ),
    twin='mp.up({"gpu-1": {"gpu", "ml-models"}, "cpu-1": "cpu"}, workers=1)',
    more="A node that has died, or whose resources changed, is started again.",
)
def up(session: Session, options: VerbOptions) -> Any:
    """Start nodes and return the cluster."""
    from mpreg_nb.cluster.api import up
    from mpreg_nb.cluster.current import all_clusters
    from mpreg_nb.launcher.launchers import jobs

    if options.nodes and options.count is not None:
        raise Misuse("give names or a number, not both: %mpreg up -n 3")
    before = [(cluster, cluster.urls) for cluster in all_clusters()]
    packages = options.packages
    with arguments():
        cluster = up(
            options.nodes or options.count,
            ssh=options.ssh or None,
            slurm=jobs(options.slurm, options.sbatch),
            python=options.python,
            install=options.install,
            packages="kernel" if packages == ("kernel",) else packages,
            via=options.via,
            workers=options.workers,
            slots=options.slots,
            keep=options.keep,
            fresh=options.fresh,
        )
    if (cluster, cluster.urls) in before:
        print("already up")  # noqa: T201 - said, since nothing else shows it
    return cluster


@LINE.verb(
    NODES,
    "End the cluster, or only these nodes.",
    "down",
    "down gpu-1",
    options=(option("names", nargs="*", metavar="NAME", help="only these nodes"),),
    completes="own node",
    twin='mp.down() or cluster.remove("gpu-1")',
    more="A cluster that you only connected to is disconnected; its nodes continue to "
    "run. HOST/CLUSTER ends a kept cluster on another machine.",
)
def down(session: Session, options: VerbOptions) -> Any:
    """End the cluster or some of its nodes; return the names of those that ended."""
    from mpreg_nb.cluster.api import down

    if not options.names:
        return down()
    if "/" in options.names[0] and len(options.names) == 1:
        with arguments():
            return down(options.names[0])
    with arguments():
        session.cluster.remove(*options.names)
    return tuple(options.names)


@LINE.verb(
    NODES,
    "List every node that you started on this machine, or on a host of ssh.",
    "ps",
    "ps gpu-1",
    options=(option("host", nargs="?", default="", metavar="HOST", help="of ssh"),),
    twin='mp.ps() or mp.ps("gpu-1")',
)
def ps(session: Session, options: VerbOptions) -> Any:
    """Return the frame of all nodes of this user."""
    from mpreg_nb.cluster.api import ps

    with arguments():
        return ps(options.host)


@LINE.verb(
    NODES,
    "Take over a cluster that was started with --keep, with its runs.",
    "adopt",
    "adopt calm-otter",
    "adopt gpu-1/calm-otter",
    options=(option("name", nargs="?", metavar="CLUSTER", help="see ps"),),
    twin='mp.adopt("calm-otter")',
)
def adopt(session: Session, options: VerbOptions) -> Any:
    """Connect to a kept cluster and return it."""
    from mpreg_nb.cluster.api import adopt

    with arguments():
        return adopt(options.name)


@LINE.verb(
    NODES,
    "Connect to a running cluster by the URL of any of its nodes, or to Dask.",
    "connect ws://10.0.0.5:7400",
    "connect wss://10.0.0.5:7400 --ca ca.pem",
    "connect dask://10.0.0.5:8786",
    options=(
        option("urls", nargs="+", metavar="URL"),
        option("--ca", metavar="FILE", help="CA of the cluster, for wss:// URLs"),
    ),
    twin='mp.connect("ws://10.0.0.5:7400")',
)
def connect(session: Session, options: VerbOptions) -> Any:
    """Connect to a cluster by URL and return it."""
    from mpreg_nb.cluster.api import connect

    with arguments():
        return connect(*options.urls, ca=options.ca)


# ------------------------------------------------------------------- functions

FUNCTIONS = "functions"


@LINE.verb(
    FUNCTIONS,
    "Ship functions of this notebook to the nodes.",
    "register train --resources gpu",
    "register load clean --idempotent",
    name="register",
    options=(
        option(
            "names", nargs="+", metavar="NAME", help="variables that hold functions"
        ),
        *_REGISTRATION,
    ),
    completes="callable",
    twin='cluster.register(train, resources={"gpu"})',
)
def register_names(session: Session, options: VerbOptions) -> Any:
    """Register the functions that are in the variables `options.names`."""
    found = {name: session.variable(name) for name in options.names}
    for name, value in found.items():
        if not callable(value):
            raise Misuse(
                f"{name!r} is not a function but of type {type(value).__name__}"
            )
    return _register(session, found, options)


class RegisteredFunctions(tuple["Function[Any, Any]", ...]):
    """Functions that were registered together; shows their cards."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import registration_bundle

        cards = [function.card for function in self if function.card is not None]
        return registration_bundle(cards, include, exclude)


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


class CallExpression(NamedTuple):
    """A call as it was written, its arguments evaluated."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@LINE.verb(
    FUNCTIONS,
    "Call a function of the cluster; its arguments are Python expressions.",
    "call train(rows, lr=0.2)",
    usage="%%mpreg call FUNCTION(ARGUMENTS)",
    completes="called function",
    twin='cluster.call("train", rows, lr=0.2)',
)
def call(session: Session, options: VerbOptions) -> Any:
    """Call a function of the cluster as the line says, and return its result."""
    __tracebackhide__ = True
    from mpreg_nb.cluster.function import Function

    asked = read_call(session, options.rest, "call", "train(rows, lr=0.2)")
    cluster = session.cluster
    held = session.shell.user_ns.get(asked.name)
    # Decorated before there was a cluster, a function is registered at first use.
    if isinstance(held, Function) and parts_of(cluster).client.offer(held.name) is None:
        return held.call(*asked.args, **asked.kwargs)
    return cluster.call(asked.name, *asked.args, **asked.kwargs)


def read_call(session: Session, text: str, verb: str, example: str) -> CallExpression:
    """Read `name(arguments)`, also with the name in quotes.

    Raises:
        Misuse: it is no call, or names a variable that there is not.
    """
    usage = f"write a call as in Python: %mpreg {verb} {example}"
    shell: Any = session.shell
    filename = shell.compile.cache(text, shell.execution_count)
    try:
        found = ast.parse(text, filename, "eval").body if text else None
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
    code = ast.Expression(ast.Tuple([*given], ast.Load()))
    compiled = compile(ast.fix_missing_locations(code), filename, "eval")
    try:
        with shell.builtin_trap:
            args, kwargs = eval(  # noqa: S307 - the user's line
                compiled, shell.user_global_ns, shell.user_ns
            )
    except NameError as error:
        wrong = error.name or ""
        meant = nearest(wrong, session.variables)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise Misuse(f"the notebook has no variable {wrong!r}.{hint}") from None
    return CallExpression(name, args, kwargs)


LINE.verb(
    FUNCTIONS,
    "List what remote cells keep on nodes: names, and where.",
    more="Made by %%mpreg remote --keep NAME. It ends with its node, its process, this "
    "kernel, or by %mpreg forget NAME.",
)(remote_cell.kept)

LINE.verb(
    FUNCTIONS,
    "Drop what remote cells keep on a node.",
    "forget work",
    options=(option("names", nargs="+", metavar="NAME", help="see kept"),),
    completes="kept names",
)(remote_cell.forget)


@LINE.verb(
    FUNCTIONS,
    "List functions, their nodes and how often they were called.",
    "functions",
    "functions train*",
    options=(option("pattern", nargs="?", default="*", metavar="PATTERN"),),
    completes="function",
    twin='cluster.functions("train*")',
)
def functions(session: Session, options: VerbOptions) -> Any:
    """Return the frame of functions."""
    return session.cluster.functions(options.pattern)


# ------------------------------------------------------------------- workflows

WORKFLOWS = "workflows"

_WITH_INPUTS = re.compile(r"(?P<before>.*?)(?P<call>[^\W\d]\w*\(.*\))(?P<after>[^)]*)")


def inputs_of(session: Session, verb: str, line: str) -> tuple[str, dict[str, Any]]:
    """Take `(sensor="s-7")` after the workflow out of `line`; return both.

    Raises:
        Misuse: the inputs are not given by name.
    """
    found = _WITH_INPUTS.fullmatch(line)
    if found is None:
        return line, {}
    asked = read_call(session, found["call"], verb, 'flow(sensor="s-7")')
    if asked.args:
        raise Misuse(f"inputs are given by name: %mpreg {verb} {asked.name}(NAME=…)")
    return f"{found['before']}{asked.name}{found['after']}", asked.kwargs


@LINE.verb(
    WORKFLOWS,
    "Show where each step would run now, and why.",
    "plan flow",
    options=(_FLOW,),
    reads=inputs_of,
    completes="workflow",
    twin="flow.plan()",
)
def plan(session: Session, options: VerbOptions) -> Any:
    """Return where each step would run now."""
    flow = session.flow(options.flow)
    with arguments():
        return flow.plan(**options.inputs)


@LINE.verb(
    WORKFLOWS,
    "Draw a workflow, or a run with its states.",
    "draw flow",
    "draw run",
    options=(_FLOW,),
    completes="workflow or run",
    twin="flow or run, as the value of a cell",
)
def draw(session: Session, options: VerbOptions) -> Any:
    """Return a workflow or a run, which draws itself."""
    return session.flow_or_run(options.flow)


@LINE.verb(
    WORKFLOWS,
    "Execute a workflow and wait for its end.",
    "run flow",
    "run flow -a -o nightly",
    'run flow(sensor="s-7")',
    options=(
        _FLOW,
        option("-a", action="store_true", help="do not wait for its end"),
        _TARGET,
    ),
    reads=inputs_of,
    completes="workflow",
    twin='flow.run(sensor="s-7") or, with -a, flow.start()',
    more="Inputs are keyword arguments, as in a call in Python.",
)
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


@LINE.verb(
    WORKFLOWS, "List runs of workflows, the newest first.", twin="cluster.runs()"
)
def runs(session: Session, options: VerbOptions) -> Any:
    """Return the frame of runs."""
    return session.cluster.runs()


@LINE.verb(
    WORKFLOWS,
    "Explain why a step ran where it did: candidates, loads, choice.",
    "why run.stats",
    "why sensor-report.stats",
    options=(
        option(
            "step", metavar="RUN.STEP", help="a variable, or the name or id of a run"
        ),
    ),
    completes="step of a run",
    twin='run.why("stats")',
)
def why(session: Session, options: VerbOptions) -> Any:
    """Return why a step ran where it did."""
    run, step = _step(session, options.step)
    return run.why(step)


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


@LINE.verb(
    WORKFLOWS,
    "Cancel a run.",
    "cancel nightly",
    options=(option("run", metavar="RUN", help="as for %%mpreg why"),),
    completes="run",
    twin="run.cancel()",
)
def cancel(session: Session, options: VerbOptions) -> Any:
    """End a run."""
    return session.run(options.run).cancel()


# ------------------------------------------------------------------- inspection

INSPECT = "inspect"


def _frame_verb(name: str, title: str) -> None:
    """Add the verb that calls the method `name` of the cluster, without arguments."""

    def show(session: Session, options: VerbOptions) -> Any:
        return getattr(session.cluster, name)()

    LINE.verb(INSPECT, title, name=name, twin=f"cluster.{name}()")(show)


_frame_verb("status", "Show the cluster at a glance; so does %mpreg alone.")
_frame_verb("nodes", "List nodes: state, resources, load.")
_frame_verb("routes", "Show how many calls from here each node took.")
_frame_verb("calls", "List the last calls from here, and where their time went.")
_frame_verb("events", "List events: nodes and functions that came, failed or left.")


@LINE.verb(
    INSPECT,
    "Show latency percentiles of calls from here.",
    "latency",
    "latency --by function,node",
    options=(
        option(
            "--by",
            type=keys,
            default=("function",),
            metavar="function|node|function,node",
            help="a row for each of these",
            completes="grouping",
        ),
    ),
    twin='cluster.latency(by="node")',
)
def latency(session: Session, options: VerbOptions) -> Any:
    """Return the frame of latencies."""
    return session.cluster.latency(options.by)


@LINE.verb(
    INSPECT,
    "Watch the cluster live, while cells run.",
    "watch",
    "watch members topology",
    "watch calls",
    options=(option("views", nargs="*", metavar="VIEW"),),
    completes="view",
    twin='cluster.watch("members", "topology")',
    more="Without a name it shows all views: " + ", ".join(VIEWS) + ".",
)
def watch(session: Session, options: VerbOptions) -> Any:
    """Return a live view."""
    with arguments():
        return session.cluster.watch(*options.views)


@LINE.verb(
    INSPECT,
    "Show the logs of nodes. Prints of functions appear in the cells instead.",
    "logs gpu-1",
    "logs -n 200",
    "logs gpu-1 -f",
    options=(
        option("node", nargs="?", metavar="NODE", help="else all"),
        option("-f", action="store_true", help="follow the logs until Stop"),
        option("-n", dest="lines", type=int, metavar="50", help="lines per node"),
    ),
    completes="node",
    twin='cluster.logs("gpu-1", lines=50)',
)
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


@LINE.verb(
    INSPECT,
    "Measure calls, maps and workflows, on two separate nodes.",
    "bench",
    "bench --here --only map",
    options=(
        option(
            "--full",
            action="store_true",
            help="more repetitions, 1 to 5 nodes and unequal nodes; takes minutes",
        ),
        option("--here", action="store_true", help="on the current cluster"),
        option(
            "--only",
            default="",
            metavar="WORD",
            help="only rows whose name contains this",
        ),
    ),
    twin='mp.bench(quick=True, cluster=cluster, only="map")',
)
def bench(session: Session, options: VerbOptions) -> Any:
    """Measure, and return what was measured."""
    import mpreg_nb

    cluster = session.cluster if options.here else None
    with arguments():
        return mpreg_nb.bench(not options.full, cluster, only=options.only)


@LINE.verb(
    INSPECT, "Check versions, front end, ports and leftovers, and suggest fixes."
)
def doctor(session: Session, options: VerbOptions) -> Any:
    """Return what is wrong here, with cures."""
    from mpreg_nb.cluster.doctor import examine

    return examine()


def _explained(key: Key) -> str:
    text = f"{key.name}: {key.rule}, else {key.default}. {key.meaning}"
    return fill(text, width=80, subsequent_indent="  ", break_on_hyphens=False)


@LINE.verb(
    INSPECT,
    "Show or set the defaults of this kernel.",
    "config",
    "config workers",
    "config progress_after_s 5",
    options=(
        option("key", nargs="?", metavar="KEY"),
        option("value", nargs="?", metavar="VALUE"),
    ),
    completes="key",
    twin='mp.config("progress_after_s", 5)',
    more="\n".join(map(_explained, KEYS.values())),
)
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


@LINE.verb(
    INSPECT,
    "Explain a verb, or list all.",
    "help",
    "help up",
    name="help",
    options=(option("verb", nargs="?", metavar="VERB"),),
    completes="verb",
)
def help_(session: Session, options: VerbOptions) -> None:
    """Print what a verb does, or what all do."""
    explain(options.verb)


def explain(verb: Verb | str | None) -> None:
    """Print what a verb does, of the line and of the cell, or what all do.

    Raises:
        Misuse: there is no such verb.
    """
    if verb is None:
        print(overview())  # noqa: T201 - text to read, no object to keep
        return
    found = [verb] if isinstance(verb, Verb) else []
    if not isinstance(verb, Verb):
        found = [verbs[verb] for verbs in (LINE_VERBS, CELL_VERBS) if verb in verbs]
    # Of a word that is none, this says what is meant.
    found = found or [split_verb(str(verb))[0]]
    print("\n\n".join(each.help for each in found))  # noqa: T201 - as above


# --------------------------------------------------------------- test failures

DRILLS = "test failures, on clusters that this notebook started"


@LINE.verb(
    DRILLS,
    "End a node at once, as a crash would.",
    "kill gpu-1",
    options=(option("node", metavar="NODE"),),
    completes="own node",
    twin='cluster.kill("gpu-1")',
    more="%mpreg up starts it again.",
)
def kill(session: Session, options: VerbOptions) -> Any:
    """End a node as a crash would."""
    with arguments():
        return session.cluster.kill(options.node)


@LINE.verb(
    DRILLS,
    "Pause a node for a while, as a machine out of memory would.",
    "pause gpu-1 5",
    options=(option("node", metavar="NODE"), _SECONDS),
    completes="own node",
    twin='cluster.pause("gpu-1", 5)',
)
def pause(session: Session, options: VerbOptions) -> Any:
    """Pause a node for some seconds."""
    with arguments():
        return session.cluster.pause(options.node, options.seconds)


def sides_joined(line: str) -> str:
    """Return `line` without the spaces around commas and the bar.

    >>> sides_joined("n1, n2 | n3 10")
    'n1,n2|n3 10'
    """
    return re.sub(r"\s*([|,])\s*", r"\1", line)


@LINE.verb(
    DRILLS,
    "Cut the network between two groups of nodes for a while.",
    "partition n1|n2,n3 10",
    options=(
        option("sides", type=sides, metavar="A|B", help="nodes, with commas: n1,n2|n3"),
        _SECONDS,
    ),
    joins=sides_joined,
    completes="own node",
    twin='cluster.partition(["n1"], ["n2", "n3"], 10)',
)
def partition(session: Session, options: VerbOptions) -> Any:
    """Cut the network between two sides for some seconds."""
    here, there = options.sides
    with arguments():
        return session.cluster.partition(here, there, options.seconds)


# ----------------------------------------------------------------------- cells

CELLS = "cells"


@CELL.verb(
    CELLS,
    "Run the cell here and register the functions that it defines.",
    "register --resources gpu",
    name="register",
    options=_REGISTRATION,
    more="Functions whose name begins with _ are not registered; they are sent with\n"
    "the functions that use them.",
)
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


CELL.verb(
    CELLS,
    "Run the cell once on a node that fits.",
    "remote --on gpu -o model",
    "remote --node n2 --timeout 60",
    "remote --keep work",
    options=(
        _ON,
        option("--node", metavar="NAME", help="only on this node", completes="node"),
        option(
            "--keep",
            metavar="NAME",
            help="share names with all cells that keep NAME: one process on one node",
            completes="kept names",
        ),
        _TIMEOUT,
        _TARGET,
    ),
    more="Its prints and displays appear here as they happen; its last expression is\n"
    "the value. Variables of the notebook that it reads are sent with it, by\n"
    "value.\n\n"
    "These lines of IPython run on the node: !command, names = !command, %time,\n"
    "%timeit, %cd, %pwd, %env, %pip (of the Python of the node), %conda, and\n"
    "%%time, %%timeit, %%bash, %%sh or %%writefile as the next line. All other\n"
    "magics raise a usage error before anything runs.",
)(remote_cell.remote)

CELL.verb(
    CELLS,
    "Run the cell on every node that fits, at the same time.",
    "everywhere",
    "everywhere --on gpu -o sizes",
    options=(_ON, _TIMEOUT, _TARGET),
    more="Like remote, but the value is a dict of node -> value. If some nodes fail,\n"
    "the values of the others are shown before the error, and stored with -o.",
)(remote_cell.everywhere)

CELL.verb(
    CELLS,
    "Make the cell a step of a workflow. Run again, the cell replaces the step.",
    "step clean --flow report --on cpu",
    "step raw --flow report --input sensor,day",
    "step stats --flow report --retry 2 --timeout 30",
    options=(
        option("step", metavar="NAME", help="name of the step"),
        option(
            "--flow",
            required=True,
            metavar="FLOW",
            help="the workflow; created if there is none",
            completes="workflow",
        ),
        _ON,
        option(
            "--input",
            type=names,
            default=(),
            metavar="name,name",
            help="names that the cell reads and %%mpreg run FLOW(NAME=…) gives",
        ),
        option(
            "--retry",
            type=int,
            default=0,
            metavar="N",
            help="more attempts if it fails",
        ),
        _TIMEOUT,
        option(
            "--after",
            type=names,
            default=(),
            metavar="step,step",
            help="run after these steps",
            completes="step",
        ),
    ),
    completes="step",
    more="Inputs: variables that the cell reads and other step cells assign, and "
    "names\nof steps, which stand for their whole results. Other variables of the\n"
    "notebook are sent by value.\n"
    "Outputs: variables that the cell assigns, for later step cells; not those\n"
    "that begin with _. Several outputs make the result a dict; without outputs,\n"
    "the last expression is the result.",
)(remote_cell.step)


# ------------------------------------------------------------------- all of them

LINE_VERBS = LINE.by_name
CELL_VERBS = CELL.by_name


def split_verb(line: str, *, of_cell: bool = False) -> tuple[Verb, str]:
    """Return the verb of `line` and the rest; an empty line means `status`.

    Raises:
        Misuse: there is no such verb; the nearest is named.
    """
    verbs = CELL_VERBS if of_cell else LINE_VERBS
    line = without_comment(line.strip())
    if not of_cell:  # it silences the value, see `is_silenced` in output.py
        line = line.removesuffix(";")
    word, rest = (*line.split(maxsplit=1), "", "")[:2]
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
