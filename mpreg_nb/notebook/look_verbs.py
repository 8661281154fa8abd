"""The verbs of `%mpreg` that show something: frames, views, logs, checks, settings."""

from collections.abc import Iterator
from textwrap import fill

from mpreg_nb.cluster.config import KEYS, Key
from mpreg_nb.notebook.line import Verb, keys, line_verb

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
