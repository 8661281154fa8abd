"""`%%mpreg remote --keep NAME`: cells that share their names, on one node.

Each NAME is a worker of its own on the node where it was used first. It lasts until
it is dropped, its node or its process ends, or the cluster is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mpreg_nb.errors import LOST_SPACE, REPLACED, NodeLost, NoRoute, WorkerCrashed
from mpreg_nb.names import check_name, check_resources, nearest
from mpreg_nb.notebook.body import run_kept
from mpreg_nb.notebook.line import Misuse, Options, arguments
from mpreg_nb.notebook.session import Session
from mpreg_nb.notebook.source import Source, shipped, travelling

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster

NAME = "remote cell"


@dataclass(slots=True)
class Kept:
    """Names that cells keep on a node."""

    name: str
    node: str
    space: bytes
    names: tuple[str, ...] = ()  # as of its last cell


_of: "WeakKeyDictionary[Cluster, dict[str, Kept]]" = WeakKeyDictionary()


class KeptNames(tuple[Kept, ...]):
    """What `%mpreg kept` returns; shows one line for each."""

    __slots__ = ()

    def __repr__(self) -> str:
        return (
            "\n".join(map(_line, self)) or "nothing is kept: %%mpreg remote --keep NAME"
        )


def _line(kept: Kept) -> str:
    return f"{kept.name} on {kept.node}: {', '.join(kept.names) or 'no names yet'}"


def kept(session: Session, _: Options) -> KeptNames:
    """Return what cells keep on nodes of the current cluster."""
    return KeptNames(_of.get(session.cluster, {}).values())


def names_of(session: Session) -> list[str]:
    """Return the names that `--keep` was given, for completion."""
    from mpreg_nb.cluster.current import all_clusters

    return sorted({name for cluster in all_clusters() for name in _of.get(cluster, {})})


def forget(session: Session, options: Options) -> tuple[str, ...]:
    """Drop what these names keep; return them."""
    known = _of.get(session.cluster, {})
    for name in options.names:
        if name not in known:
            meant = nearest(name, known)
            hint = f"Did you mean {meant!r}?" if meant else "%mpreg kept lists all"
            raise Misuse(f"nothing is kept under the name {name!r}. {hint}")
    for name in options.names:
        dropped = known.pop(name)
        try:
            session.cluster.calling.close_space(dropped.node, dropped.space)
        except NodeLost:  # then it has ended with its node, or ends with our links
            continue
    return tuple(options.names)


def run(session: Session, options: Options, source: Source, silent: bool) -> Any:
    """Run a cell with the names of `options.keep`; return its value.

    Raises:
        Misuse: the place is another, or what was kept is lost; nothing was run.
    """
    __tracebackhide__ = True
    place = _place(session, options)
    own = set(place.names)
    names = {
        name: value
        for name, value in source.variables(session).items()
        if name not in own  # the cells there have set it
    }
    with arguments():
        view = shipped(NAME, run_kept).on(node=place.node, timeout=options.timeout)
    try:
        with travelling(names):
            value, set_there = view.in_space(place.space).call(
                source.text, source.filename, silent, **names
            )
    except NoRoute:
        if _is_alive(session, place.node):
            raise
        raise _lost(session, place, f"{place.node} has ended") from None
    except NodeLost as error:
        if error.reason.startswith(LOST_SPACE):
            reason = error.reason.removeprefix(LOST_SPACE).removeprefix(": ")
            raise _lost(session, place, reason) from None
        _drop(session, place)
        error.add_note(_advice(place))
        raise
    except WorkerCrashed as error:
        _drop(session, place)
        error.args = (str(error).replace(REPLACED, ""),)
        error.add_note(_advice(place))
        raise
    place.names = set_there
    return value


def _place(session: Session, options: Options) -> Kept:
    """Return where the cell runs; made where it was not used before."""
    with arguments():
        name = check_name("kept names", options.keep)
        wanted = check_resources(options.on)
    cluster = session.cluster
    known = _of.setdefault(cluster, {})
    held = _held(session)
    if name in known:
        place = known[name]
        elsewhere = options.node not in (None, place.node)
        lacks = sorted(wanted - held.get(place.node, wanted))
        if elsewhere or lacks:
            why = f"run on {options.node}" if elsewhere else f"use {', '.join(lacks)}"
            raise Misuse(
                f"{name!r} is kept on {place.node}, so the cell cannot {why}. Leave "
                f"that option out, or drop what is kept: %mpreg forget {name}"
            )
        return place
    fitting = [n for n, resources in held.items() if wanted <= resources]
    if options.node is not None:
        fitting = [n for n in fitting if n == options.node]
    if not fitting:
        raise NoRoute(NAME, wanted, held, held=held, pinned=options.node)
    node = fitting[0]
    space = cluster.calling.open_space(node)
    place = known[name] = Kept(name, node, space)
    print(  # noqa: T201 - what is kept where is to be known
        f"[{node}] keeps {name!r} from now on; %mpreg forget {name} drops it"
    )
    return place


def _held(session: Session) -> Mapping[str, frozenset[str]]:
    """Return the resources of the nodes that run cells, the idlest first."""

    def load(picture: Any) -> float:
        load = picture.load
        return (load.running + load.queued) / max(1, load.slots) if load else 0.0

    pictures = [
        picture
        for picture in session.cluster.refresh().nodes
        if picture.record.state.name == "ALIVE" and picture.record.workers
    ]
    kept = [each.node for each in _of.get(session.cluster, {}).values()]
    pictures.sort(key=lambda p: (load(p), kept.count(p.record.name), p.record.name))
    return {picture.record.name: picture.record.resources for picture in pictures}


def _is_alive(session: Session, node: str) -> bool:
    return node in _held(session)


def _drop(session: Session, place: Kept) -> None:
    _of.get(session.cluster, {}).pop(place.name, None)


def _advice(place: Kept) -> str:
    return (
        f"What was kept as {place.name!r} is lost with it. Run the cells again that "
        f"made it, with --keep {place.name}: they begin anew"
    )


def _lost(session: Session, place: Kept, reason: str) -> Misuse:
    _drop(session, place)
    names = f" ({', '.join(place.names)})" if place.names else ""
    return Misuse(
        f"what was kept on {place.node} as {place.name!r}{names} is lost: {reason}. "
        f"The cell was not run. Run the cells again that made it, with --keep "
        f"{place.name}: they begin anew"
    )
