"""The command line: `mpreg-nb COMMAND`; `mpreg-nb` alone lists the commands."""

import argparse
import ast
import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, NoReturn

from mpreg_nb.boundary import wants_all_frames, without_ours
from mpreg_nb.cures import in_shell
from mpreg_nb.demo.catalog import DEMOS, demo, listing
from mpreg_nb.engines.options import add_gateway_arguments, gateway_options
from mpreg_nb.errors import MpregError, RemoteError
from mpreg_nb.names import meant_by
from mpreg_nb.node.options import NodeOptions, add_arguments, options_of, tls_files

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster

_EXAMPLES = """\
examples:
  mpreg-nb demo                             take a guided tour
  mpreg-nb node --name n1                   run a node here, print how to join it
  mpreg-nb call ws://HOST:PORT train 3      call a function, print its result
  mpreg-nb ps                               your nodes on this machine
  mpreg-nb watch                            a live view of your cluster

`mpreg-nb COMMAND --help` explains a command.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors suggest the nearest known word."""

    def error(self, message: str) -> NoReturn:
        """Print the usage, the error and the nearest known word; exit with 2."""
        hint = meant_by(message, self._option_string_actions)
        super().error(f"{message}. {hint}".rstrip() if hint else message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code, 1 when it failed, 2 for bad usage."""
    parser, given = _read(arguments)
    if given.version:
        from importlib.metadata import version

        print(f"mpreg-nb {version('mpreg_nb')}")
        return 0
    if given.command is None:
        parser.print_help()
        return 2
    with in_shell(given.command):
        try:
            return _COMMANDS[given.command](given.parser, given)
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # the border to a shell, which gets one line
            if wants_all_frames():
                raise
            sys.stderr.write(f"mpreg-nb {given.command}: {_told(error)}\n")
            return 1


def _told(error: Exception) -> str:
    """Return the message of `error`; for an error of a function, also its lines."""
    if not isinstance(error, RemoteError):
        known = isinstance(error, _SAID)
        name = "" if known and str(error) else f"{type(error).__name__}: "
        return f"{name}{error}"
    lines = traceback.format_tb(without_ours(error.__traceback__))
    where = f" on {error.node}" if error.node else ""
    name = error.type_name.removeprefix("builtins.")
    return f"{name}{where}: {error}\n{''.join(lines)}".rstrip()


def _read(
    arguments: Sequence[str] | None,
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = command_parser()
    given, rest = parser.parse_known_args(arguments)
    if given.command == "call" and all(_is_argument(word) for word in rest):
        given.arguments += rest  # words after an option are arguments too
        rest = []
    if rest:
        # The parser of the command reports it: its usage lists the valid options.
        reporter = getattr(given, "parser", parser)
        reporter.error(f"unrecognized arguments: {' '.join(rest)}")
    return parser, given


def _is_argument(word: str) -> bool:
    """Whether a word is an argument of the function, and not an unknown option."""
    return not word.startswith("-") or isinstance(_literal(word), int | float)


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="mpreg-nb",
        description="Run Python functions on a cluster of nodes, without a scheduler.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="store_true", help="print the version and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, title: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=title,
            description=f"{title[0].upper()}{title[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(parser=made)
        return made

    demo_parser = command(
        "demo", "run a demo job on nodes of this machine, and explain it"
    )
    demo_parser.epilog = f"the demos:\n{indent(listing(), '  ')}"
    demo_parser.add_argument(
        "name",
        nargs="?",
        choices=list(DEMOS),
        metavar="NAME",
        help="the demo to run; by default the guided tour",
    )
    demo_parser.add_argument(
        "--list", action="store_true", help="list the demos and exit"
    )
    demo_parser.add_argument(
        "--fast", action="store_true", help="do not pause for reading"
    )
    node = command("node", "run one node until SIGTERM or Ctrl-C")
    add_arguments(node)
    call = command("call", "call a registered function and print its result")
    call.add_argument("url", metavar="URL", help="URL of any node: ws://HOST:PORT")
    call.add_argument("function", metavar="FUNCTION", help="name of the function")
    call.add_argument(
        "arguments",
        nargs="*",
        default=[],  # without it, argparse counts them among what is required
        metavar="ARGUMENT",
        help="a Python literal; any other text is a string",
    )
    call.add_argument(
        "--on", default="", metavar="A,B", help="only on nodes with these resources"
    )
    call.add_argument(
        "--timeout",
        type=float,
        default=None,
        metavar="SECONDS",
        help="cancel the call after so many seconds",
    )
    _add_ca(call)
    gateway = command("gateway", "run calls on the workers of a Dask cluster")
    add_gateway_arguments(gateway)
    up = command("up", "start nodes, here and on other machines")
    up.add_argument(
        "nodes", nargs="*", metavar="NAME[:res,res]", help="a node and its resources"
    )
    up.add_argument("-n", dest="count", type=int, metavar="3", help="number of nodes")
    up.add_argument(
        "--ssh",
        action="append",
        default=[],
        metavar="HOST[/NAME][:res,res]",
        help="a node on a host that ssh reaches; may be repeated",
    )
    up.add_argument(
        "--python", default="", metavar="PATH", help="Python interpreter on the hosts"
    )
    up.add_argument(
        "--install", action="store_true", help="make an environment on each host, once"
    )
    up.add_argument(
        "--packages",
        default="",
        metavar="A,B",
        help="packages to install there, besides mpreg_nb",
    )
    up.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="NAME[:res,res]",
        help="a node that is a job of Slurm; may be repeated",
    )
    up.add_argument(
        "--sbatch", default="", metavar="OPTIONS", help="sbatch options of these jobs"
    )
    up.add_argument(
        "--via",
        choices=("tunnel", "tls"),
        help="connections between machines: ssh tunnels (default), or TLS, which "
        "needs open ports",
    )
    up.add_argument("--workers", type=int, metavar="1", help="processes per node")
    up.add_argument("--slots", type=int, metavar="1", help="calls at once per worker")
    up.add_argument(
        "--name", default="", metavar="CLUSTER", help="name of the cluster in ps"
    )
    up.add_argument(
        "--keep",
        action="store_true",
        help="exit and leave the nodes running; `mpreg-nb down` ends them",
    )
    host = command(
        "host", "start nodes for another machine (mpreg_nb runs this over ssh)"
    )
    host.add_argument(
        "mark", metavar="MARK", help="prefix of the lines that this command prints"
    )
    ps = command("ps", "list your nodes on this machine")
    ps.add_argument(
        "host", nargs="?", default="", help="list those on this host, which ssh reaches"
    )
    down = command("down", "end one of your clusters")
    down.add_argument(
        "name",
        nargs="?",
        metavar="CLUSTER",
        help="name of the cluster, see mpreg-nb ps; HOST/CLUSTER on another machine",
    )
    down.add_argument(
        "--all",
        action="store_true",
        help="end all of your clusters, except nodes started by hand",
    )
    _add_view_commands(command)
    command("doctor", "check the installation and suggest fixes")
    bench = command("bench", "measure the speed of calls, compared with a bare echo")
    bench.add_argument(
        "--quick",
        action="store_true",
        help="repeat less, and omit the rows for 1 to 5 nodes and for unequal nodes",
    )
    bench.add_argument(
        "--only", default="", metavar="WORD", help="only rows whose name contains this"
    )
    bench.add_argument(
        "--peers",
        action="store_true",
        help="also measure the same work with ProcessPoolExecutor, and with joblib, "
        "Dask, ipyparallel, Ray and loky where they are installed",
    )
    _add_tls(command)
    token = command("token", "show, replace and issue tokens")
    token.add_argument(
        "action",
        choices=["show", "path", "rotate", "issue"],
        help="show: print the token of your clusters; path: print the path of its "
        "file; rotate: replace the token, the old one is accepted for some time; "
        "issue: print a token with fewer rights",
    )
    kind = token.add_mutually_exclusive_group()
    kind.add_argument(
        "--client",
        action="store_true",
        help="issue: a token that can call functions, but cannot join as a node",
    )
    kind.add_argument(
        "--read-only",
        action="store_true",
        help="issue: a token that can show the cluster, but cannot run anything",
    )
    token.add_argument(
        "--overlap",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="rotate: how long the old token is accepted (default %(default)g)",
    )
    return parser


def _add_ca(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ca",
        default=None,
        metavar="FILE",
        help="CA of the cluster, for wss:// URLs (default: MPREG_NB_CA, or the CA of "
        "mpreg-nb tls init)",
    )


def _add_view_commands(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    looks = {
        name: command(name, title)
        for name, title in (
            ("status", "show a summary of a cluster"),
            ("nodes", "list the nodes of a cluster and their load"),
            ("runs", "list the workflow runs of a cluster, newest first"),
            ("logs", "show the logs of nodes on this machine"),
            ("watch", "show a live view of a cluster until Ctrl-C"),
        )
    }
    for parser in looks.values():
        parser.add_argument(
            "cluster",
            nargs="?",
            metavar="CLUSTER",
            help="name of the cluster, see mpreg-nb ps, or the URL of any node: "
            "ws://HOST:PORT (default: your only cluster)",
        )
        _add_ca(parser)
    logs = looks["logs"]
    logs.add_argument("--node", metavar="NODE", help="only the log of this node")
    logs.add_argument(
        "-n", dest="lines", type=int, default=50, metavar="50", help="lines per node"
    )
    logs.add_argument("-f", action="store_true", help="follow the logs until Ctrl-C")
    looks["watch"].add_argument(
        "--view",
        action="append",
        default=[],
        metavar="VIEW",
        help="members, topology, routes, latency, calls or runs; may be repeated",
    )


_TLS_EXAMPLES = """\
examples:
  mpreg-nb tls init                         make a CA, once for a cluster
  mpreg-nb tls node n1 10.0.0.5 n1.lan      key and certificate of node n1
"""


def _add_tls(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    tls = command("tls", "make the CA of a cluster and certificates of its nodes")
    tls.epilog = _TLS_EXAMPLES
    tls.add_argument(
        "action",
        choices=["init", "node"],
        help="init: make a CA (ca.pem, ca.key); node: make a certificate (NAME.pem, "
        "NAME.key)",
    )
    tls.add_argument("name", nargs="?", metavar="NAME", help="node: name of the node")
    tls.add_argument(
        "hosts",
        nargs="*",
        default=[],
        metavar="HOST",
        help="node: host names and addresses of the node",
    )
    tls.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder for the files (default: a folder that only you can enter)",
    )
    tls.add_argument(
        "--days",
        type=float,
        default=None,
        metavar="N",
        help="days of validity (default: 10 years for a CA, one year for a node)",
    )


def _tls(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.launcher.cluster_files import file_stem
    from mpreg_nb.transport.certificates import CA_DAYS, NODE_DAYS, Authority
    from mpreg_nb.transport.tls import certificates_folder

    folder = given.out or certificates_folder()
    days = given.days
    if days is None:
        days = CA_DAYS if given.action == "init" else NODE_DAYS
    if not 0 < days <= CA_DAYS:
        parser.error(f"--days is from 1 to {CA_DAYS}")
    if given.action == "init":
        if given.name is not None:
            parser.error(f"init takes no name: mpreg-nb tls node {given.name} HOST")
        Authority.make(days=days).write(folder)
        out = f" --out {folder}" if given.out else ""
        print(
            f"{folder / 'ca.pem'}  the CA: copy it to each machine of the cluster\n"
            f"{folder / 'ca.key'}  its key: keep it here\n"
            f"Next, for each node: mpreg-nb tls node NAME HOST{out}"
        )
        return 0
    if not given.hosts:
        parser.error(
            f"at which names or addresses do others reach node "
            f"{given.name or 'NAME'}? mpreg-nb tls node {given.name or 'NAME'} HOST"
        )
    issued = Authority.read(folder).issue(given.name, given.hosts, days=days)
    files = issued.write(folder, file_stem(given.name))
    print(
        f"{files.certificate}  certificate of {given.name}, for "
        f"{', '.join(given.hosts)}, {days:g} days\n"
        f"{files.key}  its key\n"
        f"Next, with both files and ca.pem on that machine: mpreg-nb node --name "
        f"{given.name} --host {given.hosts[0]} --port 7400 --tls-cert "
        f"{files.certificate} --tls-key {files.key} --ca {files.ca}"
    )
    return 0


def _demo(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    if given.list:
        print(listing())
        return 0
    from mpreg_nb.demo.story import Story

    tell = demo(given.name) if given.name else demo()
    tell(Story(fast=given.fast))
    return 0


def _bench(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.benchmark.program import main as bench

    return bench(quick=given.quick, only=given.only, peers=given.peers)


def _node(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.node.__main__ import run

    options = options_of(parser, given)
    return _remembered(options, partial(run, options))


def _gateway(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    options = gateway_options(parser, given)
    from mpreg_nb.engines.gateway import run_gateway

    return _remembered(options.node, partial(run_gateway, options))


def _remembered(options: NodeOptions, run: Callable[..., int]) -> int:
    """Run a node in the cluster that it belonged to when it last ran."""
    from mpreg_nb.launcher.cluster_files import ClusterMemory, entered
    from mpreg_nb.transport.tls import load_ca

    memory = ClusterMemory(options.settings)
    try:
        cluster_id = memory.recall()
    except OSError as error:
        sys.stderr.write(f"this node cannot remember its cluster: {error}\n")
        cluster_id = ""
    files = tls_files(options)
    with entered(options.settings, load_ca(files.vouching) if files else ""):
        return run(first_cluster_id=cluster_id, on_ready=memory.keep)


def _up(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.api import up
    from mpreg_nb.launcher.cluster_files import CA_FILE, ClusterFiles
    from mpreg_nb.launcher.launchers import jobs

    if given.nodes and given.count is not None:
        parser.error("give names or a number, not both: mpreg-nb up -n 3")
    packages = tuple(name for name in given.packages.split(",") if name)
    cluster = up(
        given.nodes or given.count,
        ssh=given.ssh or None,
        slurm=jobs(given.slurm, given.sbatch),
        python=given.python,
        install=given.install,
        packages=packages,
        via=given.via,
        workers=given.workers,
        slots=given.slots,
        name=given.name,
        keep=given.keep,
    )
    name, url = cluster.name, cluster.urls[0]
    ca = str(ClusterFiles().folder(name) / CA_FILE) if cluster.ca else ""
    print(f"cluster {name} runs: {', '.join(cluster.own_nodes)}")
    if given.keep:
        # Not by its URL: whoever takes it over opens new tunnels to other hosts.
        print(f"  from Python       mpreg_nb.adopt({name!r})")
        print(f"  from a notebook   %mpreg adopt {shlex.quote(name)}")
        print(f"  to end it         mpreg-nb down {name}", flush=True)
        cluster.disconnect()
        return 0
    argument, option = (f", ca={ca!r}", f" --ca {ca}") if ca else ("", "")
    print(f"  from Python       mpreg_nb.connect({url!r}{argument})")
    print(f"  from a notebook   %mpreg connect {url}{option}")
    print("Ctrl-C ends it.", flush=True)
    try:
        _await_signal()
    finally:
        cluster.down()
    return 0


def _await_signal() -> None:
    import signal

    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    signal.sigwait(numbers)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _host(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.launcher.host import main as host

    return host([given.mark])


def _ps(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.launcher.cluster_files import ClusterFiles
    from mpreg_nb.launcher.kept_clusters import rows_on
    from mpreg_nb.transport.token import load_token
    from mpreg_nb.view.processes import processes
    from mpreg_nb.view.terminal import shown

    here = not given.host
    rows = ClusterFiles().rows() if here else rows_on(given.host, load_token())
    print(shown(processes(rows)) if rows else "no clusters")
    return 0


def _down(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.launcher.cluster_files import ClusterFiles
    from mpreg_nb.launcher.kept_clusters import end
    from mpreg_nb.transport.token import load_token

    ledger = ClusterFiles()
    names = [given.name]
    if given.all:  # nodes started by hand are ended by name only
        names = [e.cluster for e in ledger.entries() if not e.by_hand]
    if not names:
        print("no clusters")
    code = 0
    for name in names:
        try:
            ended = end(name, load_token())
        except MpregError as error:  # one may be of another machine, or not be reached
            if not given.all:
                raise
            sys.stderr.write(f"mpreg-nb down: {_told(error)}\n")
            code = 1
        else:
            print(f"ended: {', '.join(ended) or 'no live nodes'}")
    return code


def _token(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.transport.token import default_path, load_token, rotate

    issues = given.client or given.read_only
    if issues and given.action != "issue":
        parser.error("--client and --read-only belong to: mpreg-nb token issue")
    match given.action:
        case "path":
            print(default_path())
        case "show":
            print(load_token().reveal())
        case "rotate":
            if not 0 <= given.overlap <= MOST_OVERLAP_H:
                parser.error(f"--overlap is from 0 to {MOST_OVERLAP_H} hours")
            token = rotate(load_token(), overlap_s=given.overlap * 3600)
            print(_rotated(token.source, given.overlap))
        case "issue":
            if not issues:
                parser.error("issue what? Choose --client or --read-only")
            print(load_token().issue("client" if given.client else "viewer"))
    return 0


def _rotated(path: str, overlap_h: float) -> str:
    return (
        f"new token in {path}. The old one is accepted for {overlap_h:g} more hours by "
        "nodes that read this file.\n"
        "Copy the new one to other machines: mpreg-nb token show\n"
        "Tokens issued from the old one expire with it; make new ones: mpreg-nb token "
        "issue\n"
        "Nodes that got their token from MPREG_NB_TOKEN keep it until you restart them."
    )


MOST_OVERLAP_H = 24 * 30
"""A token is often replaced because it has leaked, so it must expire."""


def _doctor(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.doctor import examine

    findings = examine()
    print(repr(findings))  # the repr fits the terminal
    return 0 if findings.healthy else 1


@contextmanager
def _looking_at(given: argparse.Namespace) -> Iterator["Cluster"]:
    """Connect to the cluster that a command shows."""
    from mpreg_nb.cluster.api import connect
    from mpreg_nb.launcher.cluster_files import CA_FILE, ClusterFiles

    urls, ca = [given.cluster], given.ca
    if given.cluster is None or "://" not in given.cluster:
        ledger = ClusterFiles()
        record = ledger.find(given.cluster)
        urls = [node.url for node in record.nodes]
        if record.ca and ca is None:
            ca = str(ledger.folder(record.cluster) / CA_FILE)
    cluster = connect(*urls, direct=False, ca=ca)
    try:
        yield cluster
    finally:
        cluster.disconnect()


def _status(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    with _looking_at(given) as cluster:
        print(repr(cluster.status()))  # the repr fits the terminal
    return 0


def _nodes(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.view.terminal import shown

    with _looking_at(given) as cluster:
        print(shown(cluster.nodes()))
    return 0


def _runs(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.view.terminal import shown

    with _looking_at(given) as cluster:
        found = cluster.runs()
        print("no runs" if found.empty else shown(found))
    return 0


def _logs(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    with _looking_at(given) as cluster:
        if given.f:
            for line in cluster.follow_logs(given.node, given.lines):
                print(line, flush=True)
        else:
            print(cluster.logs(given.node, given.lines))
    return 0


WATCH_S = 0.5
"""Seconds between two drawings of `mpreg-nb watch`."""

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def _watch(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    import time

    from mpreg_nb.cluster.current import parts_of
    from mpreg_nb.view.terminal import found

    with _looking_at(given) as cluster, cluster.watch(*given.view) as view:
        if found() is None:  # a file or a pipe gets the current state once
            print(view.to_text())
            return 0
        while not parts_of(cluster).client.links.lost:
            print(f"{_CLEAR}{view.to_text()}\nCtrl-C ends this view.", flush=True)
            time.sleep(WATCH_S)
        print("No node answers any more: the cluster has ended, or cannot be reached.")
    return 0


def _call(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.api import connect

    resources = [name for name in given.on.split(",") if name]
    arguments = [_literal(text) for text in given.arguments]
    cluster = connect(given.url, direct=False, ca=given.ca)
    try:
        view = cluster.on(*resources, timeout=given.timeout)
        print(_shown(view.call(given.function, *arguments)))
    finally:
        cluster.disconnect()
    return 0


def _shown(result: object) -> str:
    """Return a result as JSON, or its repr if JSON cannot express it."""
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return repr(result)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


_SAID = MpregError, ValueError, OSError, TimeoutError
"""Errors whose message is enough; others are printed with their class."""

_COMMANDS = {
    "demo": _demo,
    "bench": _bench,
    "node": _node,
    "gateway": _gateway,
    "up": _up,
    "host": _host,
    "ps": _ps,
    "down": _down,
    "token": _token,
    "tls": _tls,
    "status": _status,
    "nodes": _nodes,
    "runs": _runs,
    "logs": _logs,
    "watch": _watch,
    "doctor": _doctor,
    "call": _call,
}
