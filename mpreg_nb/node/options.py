"""The command line of one node: `mpreg-nb node` and `python -m mpreg_nb.node`.

The token is never among the options, since every user of the machine can read
them: it comes from MPREG_NB_TOKEN or a file.
"""

import argparse
import ipaddress
import os
from collections.abc import Callable, Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec

from mpreg_nb.names import check_name, check_resources, check_url
from mpreg_nb.settings import Limits, NodeSettings
from mpreg_nb.transport.tls import SYSTEM, TlsFiles

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - names of what is asked about
"""Hosts that stand for all addresses of a machine."""

STDIN = 0
"""The descriptor that the word stdin means."""


def read_named(kind: str) -> Callable[[str], str]:
    """Return a reader of names of `kind`."""

    def read(text: str) -> str:
        try:
            return check_name(kind, text.strip())
        except ValueError as error:
            _refuse(str(error))

    return read


def read_resources(text: str) -> list[str]:
    """Read resource names with commas between them, or nothing."""
    try:
        return sorted(check_resources(map(str.strip, text.split(",")))) if text else []
    except ValueError as error:
        _refuse(str(error))


def read_at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            _refuse(f"{text!r} is not a whole number")
        if number < least:
            _refuse(f"{number} is too small: the smallest value is {least}")
        return number

    return read


def read_port(text: str) -> int:
    """Read a port; 0 stands for a free one."""
    number = read_at_least(0)(text)
    if number > 65535:
        _refuse(f"{number} is too large: the largest port is 65535")
    return number


def read_seconds(text: str) -> float:
    """Read up to a day in seconds."""
    try:
        number = float(text)
    except ValueError:
        _refuse(f"{text!r} is not a number of seconds")
    if not 0 <= number <= 86_400:
        _refuse(f"{text} is not from 0 to 86400 seconds")
    return number


def read_url(text: str) -> str:
    """Read the URL of a node."""
    try:
        return check_url(text)
    except ValueError as error:
        _refuse(str(error))


def read_cluster_id(text: str) -> str:
    """Read the id of a cluster, or nothing."""
    # argparse reads a default that is text as if it were given.
    if text and (len(text) != 32 or set(text) - set("0123456789abcdef")):
        _refuse(f"{text!r} is not 32 hexadecimal digits (0-9, a-f)")
    return text


def read_lifeline(text: str) -> int:
    """Read a descriptor, or the word for standard input."""
    return STDIN if text == "stdin" else read_at_least(0)(text)


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)


DEFAULTS = NodeSettings(name="default")


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line of one node says."""

    settings: NodeSettings
    token_file: str = ""
    """Where the token is; empty looks where every process of the user looks."""

    tls_cert: str = ""
    tls_key: str = ""
    """PEM files; both or neither. Needed to listen off loopback."""

    ca: str = ""
    """What certificates of other nodes are checked with: a PEM file, or "system"."""

    listening: int | None = None
    """Descriptor of a socket that listens already, in place of host and port."""

    lifeline: int | None = None
    """The node ends when this descriptor, a pipe, is closed at its other end."""

    parent: int | None = None
    """The node ends when its parent is no longer this process."""


USAGE = "%(prog)s --name NAME [--resources A,B] [--join URL] [options]"


def add_arguments(parser: argparse.ArgumentParser, *, name: str = "") -> None:
    """Give `parser` every option of a node; read them with `options_of`.

    name: that of a node to which none is given; "" demands one.
    """
    parser.usage = USAGE
    _add_common(parser, name)
    _add_network(parser.add_argument_group("other machines"))
    _add_rare(parser.add_argument_group("rarely needed"))


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    add = parser.add_argument
    add(
        "--name",
        required=not name,
        default=name,
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
        help="private key of the certificate (PEM); no other user may read it",
    )
    add(
        "--ca",
        default="",
        metavar="FILE",
        help="CA that certificates of other nodes must be of: ca.pem of mpreg-nb tls "
        "init (default: MPREG_NB_CA, or the one that this user made)",
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
        "--host-name",
        default=DEFAULTS.host_name,
        metavar="NAME",
        help="name of this machine in tables (default: its own)",
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
        "--shared-memory-mb",
        type=read_at_least(0),
        default=DEFAULTS.shared_memory_mb,
        metavar="MB",
        help="limit for large values in memory that processes of one machine share, of "
        "each worker; 0: they go through sockets (default %(default)s)",
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


def options_of(
    parser: argparse.ArgumentParser, parsed: argparse.Namespace
) -> NodeOptions:
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
            "connection would not be encrypted. Make a certificate, mpreg-nb tls node "
            f"{parsed.name} {parsed.host}, and add --tls-cert FILE --tls-key FILE; or "
            "use --host 127.0.0.1 and an ssh tunnel"
        )
    if parsed.host in WILDCARDS and not parsed.advertise:
        parser.error(
            f"--host {parsed.host} listens on all addresses of this machine, and other "
            "nodes must be told one of them. Add --advertise "
            f"wss://ADDRESS:{parsed.port or 'PORT'}"
            + ("" if parsed.port else " and --port PORT")
        )
    away = [url for url in parsed.join if not _is_loopback(_host(url))]
    if away and loopback and not parsed.advertise:
        parser.error(
            f"{away[0]} is on another machine, whose nodes could not connect to this "
            f"one at {parsed.host}. Add --host ADDRESS --tls-cert FILE --tls-key FILE, "
            "or --advertise URL where a tunnel leads here"
        )
    return NodeOptions(
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
            host_name=parsed.host_name,
            advertised=tuple(parsed.advertise),
            json_open=parsed.json_open,
            scratch=parsed.scratch,
            store_bytes=parsed.store_bytes,
            shared_memory_mb=parsed.shared_memory_mb,
            drain_s=parsed.drain_s,
            limits=Limits(max_payload_bytes=parsed.max_payload_bytes),
        ),
        token_file=parsed.token_file,
        tls_cert=parsed.tls_cert,
        tls_key=parsed.tls_key,
        ca=parsed.ca,
        listening=parsed.listen_fd,
        lifeline=parsed.lifeline,
        parent=parsed.parent,
    )


def read_options(
    arguments: Sequence[str] | None = None, *, program: str = "mpreg-nb node"
) -> NodeOptions:
    """Return what `arguments`, else those of this process, say.

    Raises SystemExit with code 2, after a line on stderr, when they are wrong,
    and with code 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog=program, description="Run one node until SIGTERM.", allow_abbrev=False
    )
    add_arguments(parser)
    return options_of(parser, parser.parse_args(arguments))


def arguments_of(options: NodeOptions) -> list[str]:
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
        ("host-name", settings.host_name, DEFAULTS.host_name),
        *(("advertise", url, None) for url in settings.advertised),
        ("token-file", _absolute(options.token_file), ""),
        ("tls-cert", _absolute(options.tls_cert), ""),
        ("tls-key", _absolute(options.tls_key), ""),
        ("ca", options.ca if options.ca == SYSTEM else _absolute(options.ca), ""),
        ("scratch", _absolute(settings.scratch), ""),
        ("store-bytes", settings.store_bytes, DEFAULTS.store_bytes),
        ("shared-memory-mb", settings.shared_memory_mb, DEFAULTS.shared_memory_mb),
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


def tls_files(options: NodeOptions) -> TlsFiles | None:
    """Return where the certificate of the node is; None: it has none."""
    if not options.tls_cert:
        return None
    return TlsFiles(certificate=options.tls_cert, key=options.tls_key, ca=options.ca)


def dialled_at(options: NodeOptions) -> tuple[str, ...]:
    """Return the hosts that others dial the node at."""
    advertised = options.settings.advertised
    return tuple(dict.fromkeys(map(_host, advertised))) or (options.settings.host,)


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


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
