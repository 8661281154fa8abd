"""The command line of one node: `mpreg-nb node` and `python -m mpreg_nb.node`.

The token is never among the options, since every user of the machine can read
them: it comes from MPREG_NB_TOKEN or a file.
"""

import argparse
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass

from mpreg_nb.node.option_values import (
    STDIN,
    read_at_least,
    read_cluster_id,
    read_lifeline,
    read_named,
    read_port,
    read_resources,
    read_seconds,
    read_url,
)
from mpreg_nb.settings import Limits, NodeSettings

DEFAULTS = NodeSettings(name="default")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line of one node says."""

    settings: NodeSettings
    token_file: str = ""
    """Where the token is; empty looks where every process of the user looks."""

    tls_cert: str = ""
    tls_key: str = ""
    """PEM files; both or neither. Needed to listen off loopback."""

    listening: int | None = None
    """Descriptor of a socket that listens already, in place of host and port."""

    lifeline: int | None = None
    """The node ends when this descriptor, a pipe, is closed at its other end."""

    parent: int | None = None
    """The node ends when its parent is no longer this process."""


USAGE = "%(prog)s --name NAME [--resources A,B] [--join URL] [options]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` every option of a node; read them with `options_of`."""
    parser.usage = USAGE
    _add_common(parser)
    _add_network(parser.add_argument_group("other machines"))
    _add_rare(parser.add_argument_group("rarely needed"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--name",
        required=True,
        type=read_named("node"),
        help="name of the node; unique in its cluster",
    )
    add(
        "--resources",
        action="extend",
        type=read_resources,
        default=[],
        metavar="A,B",
        help="resources that the node has: gpu,dataset-A",
    )
    add(
        "--join",
        action="append",
        type=read_url,
        default=[],
        metavar="URL",
        help="any node of the cluster to join; may be repeated. Without it, the node "
        "starts a new cluster",
    )
    add(
        "--workers",
        type=read_at_least(0),
        default=DEFAULTS.workers,
        metavar="N",
        help="processes that run user code (default %(default)s)",
    )
    add(
        "--slots",
        type=read_at_least(1),
        default=DEFAULTS.slots,
        metavar="N",
        help="calls at once in each worker (default %(default)s)",
    )
    add(
        "--port",
        type=read_port,
        default=DEFAULTS.port,
        help="port to listen on (default: any free one)",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--host",
        default=DEFAULTS.host,
        help="address to listen on (default %(default)s); other addresses need "
        "--tls-cert and --tls-key",
    )
    add("--tls-cert", default="", metavar="FILE", help="certificate (PEM)")
    add(
        "--tls-key",
        default="",
        metavar="FILE",
        help="private key of the certificate (PEM)",
    )
    add(
        "--token-file",
        default="",
        metavar="FILE",
        help="file with the token (default: MPREG_NB_TOKEN, MPREG_NB_TOKEN_FILE, or "
        "the token of this user)",
    )
    add(
        "--advertise",
        action="append",
        type=read_url,
        default=[],
        metavar="URL",
        help="address that other nodes connect to, if not the listening address",
    )
    add(
        "--profile",
        choices=("local", "lan", "wan"),
        default=DEFAULTS.profile,
        help="timeouts of failure detection (default %(default)s)",
    )


def _add_rare(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cluster-id",
        type=read_cluster_id,
        default=DEFAULTS.cluster_id,
        metavar="ID",
        help="reject nodes of other clusters (default: the id of --join, or a new one)",
    )
    add(
        "--json-open",
        action="store_true",
        help="accept JSON calls without a token; only on loopback",
    )
    add(
        "--scratch",
        default=DEFAULTS.scratch,
        metavar="FOLDER",
        help="working folder of the workers (default: a temporary one)",
    )
    add(
        "--store-bytes",
        type=read_at_least(0),
        default=DEFAULTS.store_bytes,
        metavar="BYTES",
        help="limit for the results of steps on this node (default %(default)s)",
    )
    add(
        "--max-payload-bytes",
        type=read_at_least(1),
        default=DEFAULTS.limits.max_payload_bytes,
        metavar="BYTES",
        help="limit for the arguments or the result of a call (default %(default)s)",
    )
    add(
        "--drain-s",
        type=read_seconds,
        default=DEFAULTS.drain_s,
        metavar="SECONDS",
        help="how long a leaving node waits for running calls (default %(default)s)",
    )
    add(
        "--listen-fd",
        type=read_at_least(0),
        metavar="FD",
        help="listen on this inherited socket instead of --host and --port",
    )
    add(
        "--lifeline",
        type=read_lifeline,
        metavar="FD|stdin",
        help="end when the other end of this pipe closes",
    )
    add(
        "--parent",
        type=read_at_least(1),
        metavar="PID",
        help="end when this process is no longer the parent",
    )


def options_of(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> Options:
    """Return what `parser` read; options that contradict each other exit with 2."""
    loopback = _is_loopback(parsed.host)
    if bool(parsed.tls_cert) != bool(parsed.tls_key):
        parser.error("--tls-cert and --tls-key belong together: give both")
    if parsed.json_open and not loopback:
        parser.error(
            f"--json-open accepts calls without a token, so not on {parsed.host}: "
            "remove it, or use --host 127.0.0.1"
        )
    if not loopback and not parsed.tls_cert:
        parser.error(
            f"--host {parsed.host} is reachable from other machines, and the "
            "connection would not be encrypted. Add --tls-cert FILE --tls-key "
            "FILE, or use --host 127.0.0.1 and use an ssh tunnel"
        )
    return Options(
        settings=NodeSettings(
            name=parsed.name,
            resources=frozenset(parsed.resources),
            host=parsed.host,
            port=parsed.port,
            join=tuple(parsed.join),
            cluster_id=parsed.cluster_id,
            workers=parsed.workers,
            slots=parsed.slots,
            profile=parsed.profile,
            advertised=tuple(parsed.advertise),
            json_open=parsed.json_open,
            scratch=parsed.scratch,
            store_bytes=parsed.store_bytes,
            drain_s=parsed.drain_s,
            limits=Limits(max_payload_bytes=parsed.max_payload_bytes),
        ),
        token_file=parsed.token_file,
        tls_cert=parsed.tls_cert,
        tls_key=parsed.tls_key,
        listening=parsed.listen_fd,
        lifeline=parsed.lifeline,
        parent=parsed.parent,
    )


def read_options(
    arguments: Sequence[str] | None = None, *, program: str = "mpreg-nb node"
) -> Options:
    """Return what `arguments`, else those of this process, say.

    Raises SystemExit with code 2, after a line on stderr, when they are wrong,
    and with code 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog=program, description="Run one node until SIGTERM.", allow_abbrev=False
    )
    add_arguments(parser)
    return options_of(parser, parser.parse_args(arguments))


def arguments_of(options: Options) -> list[str]:
    """Return the command line that `read_options` reads as `options`.

    Of the limits only `max_payload_bytes` has an option. File names become
    absolute, since the node may start in another folder.
    """
    settings = options.settings
    written: list[tuple[str, object, object]] = [
        ("resources", ",".join(sorted(settings.resources)), ""),
        ("workers", settings.workers, DEFAULTS.workers),
        ("slots", settings.slots, DEFAULTS.slots),
        ("host", settings.host, DEFAULTS.host),
        ("port", settings.port, DEFAULTS.port),
        *(("join", url, None) for url in settings.join),
        ("cluster-id", settings.cluster_id, DEFAULTS.cluster_id),
        ("profile", settings.profile, DEFAULTS.profile),
        *(("advertise", url, None) for url in settings.advertised),
        ("token-file", _absolute(options.token_file), ""),
        ("tls-cert", _absolute(options.tls_cert), ""),
        ("tls-key", _absolute(options.tls_key), ""),
        ("scratch", _absolute(settings.scratch), ""),
        ("store-bytes", settings.store_bytes, DEFAULTS.store_bytes),
        (
            "max-payload-bytes",
            settings.limits.max_payload_bytes,
            DEFAULTS.limits.max_payload_bytes,
        ),
        ("drain-s", settings.drain_s, DEFAULTS.drain_s),
        ("listen-fd", options.listening, None),
        ("lifeline", "stdin" if options.lifeline == STDIN else options.lifeline, None),
        ("parent", options.parent, None),
    ]
    return [
        _word("name", settings.name),
        *(_word(key, value) for key, value, usual in written if value != usual),
        *(["--json-open"] if settings.json_open else []),
    ]


def _word(key: str, value: object) -> str:
    # One word with "=", since a value may begin with a dash. argparse drops a value
    # of two dashes; the space is not read.
    return f"--{key}={' ' if value == '--' else ''}{value}"


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
