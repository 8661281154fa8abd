"""What nodes are wanted: from words, numbers and dicts to specifications of nodes."""

import operator
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import SupportsIndex, TypeAlias

import msgspec
from msgspec.structs import replace

from mpreg_nb.cures import cure
from mpreg_nb.names import check_name, check_resources

MOST_NODES = 256
"""Nodes that one `up` starts on this machine; a typing slip must not fell it."""

ACCEPTED = (
    'up takes a number of nodes (3), a dict {"gpu-1": {"gpu", "ml-models"}}, '
    'or words: "gpu-1:gpu,ml-models cpu-1"'
)


class NodeSpec(msgspec.Struct, frozen=True):
    """One node that is wanted or runs: its name, what it holds, and where.

    >>> str(NodeSpec("gpu-1", frozenset({"ml-models", "gpu"})))
    'gpu-1:gpu,ml-models'
    """

    name: str
    resources: frozenset[str] = frozenset()
    host: str = ""
    """The machine, as its launcher knows it; "" where it knows only one place."""

    launcher: str = ""
    """The name of what starts it; "" starts a process of this machine."""

    workers: int | None = None
    """Processes that run user code; None: as many as other nodes of its cluster."""

    def __post_init__(self) -> None:
        check_name("node", self.name)
        msgspec.structs.force_setattr(
            self, "resources", check_resources(self.resources)
        )

    def __str__(self) -> str:
        held = ",".join(sorted(self.resources))
        return f"{self.name}:{held}" if held else self.name

    @property
    def place(self) -> tuple[str, str]:
        """Launcher and host: nodes of one place start and fail together."""
        return self.launcher, self.host

    def placed(self, launcher: str) -> "NodeSpec":
        """Return this node as one that `launcher` starts."""
        return replace(self, launcher=launcher)


Wanted: TypeAlias = (
    SupportsIndex
    | str
    | NodeSpec
    | Mapping[str, str | Iterable[str]]
    | Iterable[str | NodeSpec]
)
"""What `up` accepts."""


def read_spec(wanted: Wanted, *, numbered: str = "n") -> tuple[NodeSpec, ...]:
    """Return the nodes that `wanted` names, in its order; sets are sorted.

    A number n means n1 … nn without resources, with `numbered` before the digits. A
    dict maps a node's name to its resources: several, or one as a plain string. A
    string holds words as `%mpreg up` takes them, `NAME` or `NAME:RESOURCE,RESOURCE`; a
    list holds such words or NodeSpecs.

    Raises:
        TypeError: `wanted`, or a part of it, is none of these.
        ValueError: no node or too many, a name given twice or against the rule.

    >>> [str(node) for node in read_spec("gpu-1:gpu,ml-models cpu-1")]
    ['gpu-1:gpu,ml-models', 'cpu-1']
    """
    match wanted:
        case bool() | bytes() | bytearray():
            raise _not_accepted(wanted)
        case str():
            nodes = [_read_one(word) for word in _words(wanted)]
        case NodeSpec():
            nodes = [wanted]
        case Mapping():
            nodes = [_read_pair(name, held) for name, held in wanted.items()]
        case Iterable():
            nodes = [_read_one(word) for word in wanted]
            if isinstance(wanted, set | frozenset):
                nodes.sort(key=lambda node: node.name)
        case SupportsIndex():  # bool is refused above
            return _numbered(operator.index(wanted), numbered)
        case _:
            raise _not_accepted(wanted)
    return checked(nodes)


def _words(text: str) -> list[str]:
    """Return the words of `text`; quotes hold those together that have spaces."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} names no nodes: {error}") from None


def _numbered(count: int, before: str) -> tuple[NodeSpec, ...]:
    if not 1 <= count <= MOST_NODES:
        raise ValueError(
            f"cannot start {count} nodes: the number must be from 1 to {MOST_NODES}. "
            "To end nodes: cluster.remove(name) or cluster.down()"
        )
    return tuple(NodeSpec(f"{before}{number}") for number in range(1, count + 1))


def checked(nodes: Sequence[NodeSpec]) -> tuple[NodeSpec, ...]:
    """Return `nodes`; raise ValueError for a name given twice, none or too many."""
    names = [node.name for node in nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"node {twice[0]!r} is given twice; each needs its own name")
    if not 1 <= len(nodes) <= MOST_NODES:
        raise ValueError(
            f"{len(nodes)} nodes are given; up starts 1 to {MOST_NODES}. {ACCEPTED}"
        )
    return tuple(nodes)


def _read_one(word: object) -> NodeSpec:
    if isinstance(word, NodeSpec):
        return word
    if not isinstance(word, str):
        raise _not_accepted(word)
    name, colon, listed = word.partition(":")
    if not colon and name.isdecimal():
        raise ValueError(
            f"{name!r} would name one node. For {name} nodes: "
            + cure(
                magic=f"%mpreg up -n {name}",
                python=f"mp.up({name})",
                command=f"%mpreg up -n {name}",
            )
        )
    if not colon:
        return NodeSpec(check_name("node", name))
    if not listed:
        raise ValueError(
            f"{word!r} has a colon but no resource; write {name!r} for a node "
            f"without resources, '{name}:gpu' for one with"
        )
    return NodeSpec(check_name("node", name), check_resources(listed.split(",")))


def _read_pair(name: object, held: object) -> NodeSpec:
    checked = check_name("node", name)
    if isinstance(held, bytes | bytearray | Mapping) or not isinstance(held, Iterable):
        raise TypeError(
            f"the resources of node {checked!r} are one name or several, "
            f'"gpu" or {{"gpu", "ml-models"}}, not {_shown(held)}'
        )
    return NodeSpec(checked, check_resources(held))


def _not_accepted(given: object) -> TypeError:
    return TypeError(f"{_shown(given)} does not describe nodes. {ACCEPTED}")


def _shown(given: object) -> str:
    return f"{given!r:.60} ({type(given).__name__})"


Held: TypeAlias = str | Iterable[str]
"""The resources of one node: one name, or several."""

WantedHosts: TypeAlias = (
    str | Iterable[str] | Mapping[str, Held | int | Mapping[str, Held]]
)
"""What `up` accepts for nodes on hosts that have names."""

HOSTS_ACCEPTED = (
    'hosts are a dict {"gpu-1": {"gpu"}}, with {"gpu-1": {"a": {"gpu"}, "b": "cpu"}} '
    'or {"gpu-1": 2} for several nodes of one host, or words: "gpu-1:gpu box/b:disk"'
)


def read_hosts(wanted: WantedHosts) -> tuple[NodeSpec, ...]:
    """Return the nodes that `wanted` names on hosts.

    A dict maps a host to the resources of its only node, which is named as the host,
    or to several nodes: names and their resources, or their number. A string holds
    words, `HOST:RESOURCE,RESOURCE` or `HOST/NODE:RESOURCE`; a list holds such words.

    Raises:
        TypeError: `wanted`, or a part of it, is none of these.
        ValueError: no host, a node given twice, or a name against the rule.

    >>> [(node.host, str(node)) for node in read_hosts("ada@box:disk gpu-1/b")]
    [('ada@box', 'box:disk'), ('gpu-1', 'b')]
    """
    match wanted:
        case str():
            nodes = [_read_host_word(word) for word in _words(wanted)]
        case Mapping():
            nodes = [n for host, held in wanted.items() for n in _of_host(host, held)]
        case Iterable():
            nodes = [_read_host_word(word) for word in wanted]  # bytes: of numbers
        case _:
            raise _no_hosts(wanted)
    return checked(nodes)


def _read_host_word(word: object) -> NodeSpec:
    if not isinstance(word, str):
        raise _no_hosts(word)
    place, colon, listed = word.partition(":")
    host, slash, name = place.partition("/")
    node = _read_one(f"{name if slash else own_name(host)}{colon}{listed}")
    return replace(node, host=check_host(host))


def _of_host(host: object, held: object) -> list[NodeSpec]:
    checked_host = check_host(host)
    own = own_name(checked_host)
    match held:
        case Mapping():
            nodes = [_read_pair(name, each) for name, each in held.items()]
        case int() if not isinstance(held, bool):
            names = [own] if held == 1 else [f"{own}-{n + 1}" for n in range(held)]
            nodes = [NodeSpec(name) for name in names]
        case _:
            nodes = [_read_pair(own, held)]
    if not nodes:
        raise ValueError(f"host {checked_host!r} gets no nodes. {HOSTS_ACCEPTED}")
    return [replace(node, host=checked_host) for node in nodes]


def own_name(host: str) -> str:
    """Return the name of the only node of a host: that of the host, without a user.

    >>> own_name("ada@box.lan")
    'box.lan'
    """
    return host.rpartition("@")[2]


def check_host(host: object) -> str:
    """Return `host` if ssh could take it for a host, as `gpu-1` or `ada@box.lan`.

    Raises:
        TypeError, ValueError: it could not.
    """
    checked_host = check_name("host", host)
    if checked_host.startswith("-") or any(map(str.isspace, checked_host)):
        raise ValueError(
            f"{checked_host!r} cannot name a host: write it as ssh takes it, gpu-1 or "
            "ada@box.lan; ports and keys are in ~/.ssh/config"
        )
    return checked_host


def _no_hosts(given: object) -> TypeError:
    return TypeError(f"{_shown(given)} does not describe hosts. {HOSTS_ACCEPTED}")


class Difference(msgspec.Struct, frozen=True):
    """What turns the running nodes into the wanted ones."""

    start: tuple[NodeSpec, ...]  # wanted, not there
    restart: tuple[NodeSpec, ...]  # wanted, there, but dead or with other resources
    keep: tuple[NodeSpec, ...]  # alive and right, or not spoken of: left alone

    @property
    def nothing(self) -> bool:
        """Whether all that is wanted runs already."""
        return not self.start and not self.restart


def difference(
    wanted: Iterable[NodeSpec],
    running: Iterable[NodeSpec],
    *,
    dead: Collection[str] = (),
) -> Difference:
    """Return what `up(wanted)` has to do in a cluster that has `running`.

    Nodes that are not wanted are left as they are, never ended. `dead` names
    those of `running` whose process has ended: started again where wanted.
    """
    wanted = tuple(wanted)
    present = {node.name: node for node in running}
    right = {
        node.name
        for node in wanted
        if present.get(node.name) == node and node.name not in dead
    }
    asked = {node.name for node in wanted}
    return Difference(
        start=tuple(node for node in wanted if node.name not in present),
        restart=tuple(
            node for node in wanted if node.name in present and node.name not in right
        ),
        keep=tuple(
            node
            for node in present.values()
            if node.name in right or (node.name not in asked and node.name not in dead)
        ),
    )
