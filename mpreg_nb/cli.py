"""The command line: `mpreg-nb COMMAND`; `mpreg-nb` alone lists the commands."""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from mpreg_nb.errors import MpregError
from mpreg_nb.node.options import add_arguments, options_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code, 1 when it failed, 2 for bad usage."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 2
    try:
        return _COMMANDS[given.command](parser, given)
    except MpregError as error:
        sys.stderr.write(f"mpreg-nb {given.command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpreg-nb", description="Compute on a cluster without a scheduler."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser("demo", help="a workflow on real data, on three nodes")
    demo.add_argument("--folder", type=Path, default=Path("build"), help="for files")
    bench = commands.add_parser("bench", help="measure calls against a bare echo")
    bench.add_argument("--quick", action="store_true", help="fewer repetitions")
    bench.add_argument("--only", default="", help="rows whose name has this in it")
    node = commands.add_parser("node", help="run one node until SIGTERM")
    add_arguments(node)
    commands.add_parser("ps", help="list your nodes on this machine")
    down = commands.add_parser("down", help="end a cluster of yours")
    down.add_argument("name", nargs="?", help="its name, as ps shows it")
    down.add_argument("--all", action="store_true", help="end all of them")
    token = commands.add_parser("token", help="show the token that clusters use")
    token.add_argument("action", choices=["show", "path"])
    commands.add_parser("doctor", help="look for what is wrong, and say the cure")
    call = commands.add_parser("call", help="call a registered function")
    call.add_argument("url", help="URL of a node: ws://HOST:PORT")
    call.add_argument("function")
    call.add_argument("arguments", nargs="*", help="Python literals, else strings")
    call.add_argument("--on", default="", metavar="A,B", help="resources")
    call.add_argument("--timeout", type=float, default=None, metavar="SECONDS")
    return parser


def _demo(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.demo.program import main as demo

    return demo(given.folder)


def _bench(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.bench.program import main as bench

    return bench(quick=given.quick, only=given.only)


def _node(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.node.__main__ import run

    return run(options_of(parser, given))


def _ps(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.ledger import Ledger

    rows = [
        (
            row.cluster,
            row.node,
            row.state,
            ",".join(row.resources) or "-",
            str(row.pid),
            f"{row.started_at:%Y-%m-%d %H:%M}",
            row.notebook or "-",
        )
        for row in Ledger().rows()
    ]
    if not rows:
        print("no clusters")
        return 0
    table = [("cluster", "node", "state", "resources", "pid", "started", "notebook")]
    table += rows
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _down(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.ledger import Ledger

    ledger = Ledger()
    names = [entry.cluster for entry in ledger.entries()] if given.all else [given.name]
    if not names:
        print("no clusters")
    for name in names:
        ended = ledger.end(name)
        print(f"ended: {', '.join(ended) or 'no live node was left'}")
    return 0


def _token(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.transport.token import default_path, load_token

    print(load_token().reveal() if given.action == "show" else default_path())
    return 0


def _doctor(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.doctor import examine

    findings = examine()
    print(findings)
    return 0 if findings.healthy else 1


def _call(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from mpreg_nb.cluster.starting import connect

    resources = [name for name in given.on.split(",") if name]
    arguments = [_literal(text) for text in given.arguments]
    cluster = connect(given.url, direct=False)
    try:
        view = cluster.on(*resources, timeout=given.timeout)
        print(repr(view.call(given.function, *arguments)))
    finally:
        cluster.disconnect()
    return 0


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


_COMMANDS = {
    "demo": _demo,
    "bench": _bench,
    "node": _node,
    "ps": _ps,
    "down": _down,
    "token": _token,
    "doctor": _doctor,
    "call": _call,
}
