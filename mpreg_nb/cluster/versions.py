"""Versions of Python and packages that differ between this process and the nodes."""

import asyncio
import sys
import warnings
from collections.abc import Mapping, Sequence

from mpreg_nb.boundary import levels_to_user
from mpreg_nb.client.client import NODE_ANSWERS_S, Client
from mpreg_nb.errors import MpregError
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import (
    PYTHON,
    NodeSnapshot,
    Versions,
    VersionsRequest,
    installed,
    minor_of,
)
from mpreg_nb.view.frames import versions_table


class VersionsDiffer(UserWarning):
    """Objects or functions from here may not be understood by some nodes."""


async def compare(
    client: Client,
) -> tuple[dict[str, str], dict[str, dict[str, str]], dict[str, tuple[str, ...]]]:
    """Return the versions here, those of each live node, and which of them differ."""
    here, nodes = used_here(), await node_versions(client)
    return here, nodes, differing(here, nodes)


async def node_versions(client: Client) -> dict[str, dict[str, str]]:
    """Return live node -> name -> version; only Python of those out of reach."""
    alive = [
        picture
        for picture in client.state.nodes
        if picture.record.state is MemberState.ALIVE
    ]
    known = await asyncio.gather(*(_versions_of(client, one) for one in alive))
    return {
        picture.record.name: versions
        for picture, versions in zip(alive, known, strict=True)
    }


async def _versions_of(client: Client, picture: NodeSnapshot) -> dict[str, str]:
    record = picture.record
    try:
        async with asyncio.timeout(NODE_ANSWERS_S):
            urls = record.urls if client.direct else ()
            link = await client.links.reach(record.name, urls)
            if link is not None:
                ask = VersionsRequest(id=client.requests.new_id())
                answer, _ = await client.requests.ask(ask, link=link)
                said: Versions = answer
                return dict(said.versions)
    except (TimeoutError, MpregError):
        pass  # then only the version of Python is known, from its member record
    return {"python": record.python}


def warn_of(nodes: Mapping[str, Mapping[str, str]]) -> None:
    """Warn, with a table, if one of `nodes` has other versions than this process."""
    here = used_here()
    found = differing(here, nodes)
    if found:
        text = _told(here, nodes, found)
        warnings.warn(text, VersionsDiffer, stacklevel=levels_to_user())


def used_here() -> dict[str, str]:
    """Return name -> version; of imported packages, the version that is imported."""
    return {
        name: str(getattr(sys.modules.get(name), "__version__", "") or version)
        for name, version in installed().items()
    }


def differing(
    here: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]
) -> dict[str, tuple[str, ...]]:
    """Return node -> packages with another version there; nodes without any left out.

    A package that is not installed here does not count, since no object from here
    needs it; nor does a version of a node that is unknown.

    >>> here = {"python": "3.11.7", "numpy": "2.4.6", "pandas": ""}
    >>> differing(here, {"n1": {"python": "3.11.9", "numpy": "", "pandas": "3.1"}})
    {'n1': ('numpy',)}
    """
    found = {
        node: tuple(
            name
            for name, version in versions.items()
            if here.get(name) and _differs(name, here[name], version)
        )
        for node, versions in nodes.items()
    }
    return {node: names for node, names in found.items() if names}


def _differs(name: str, here: str, there: str) -> bool:
    if name == "python":
        return minor_of(here) != minor_of(there)
    return here != there


def _told(
    here: Mapping[str, str],
    nodes: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Sequence[str]],
) -> str:
    lines = ["some nodes have other versions than this process:", ""]
    lines += str(versions_table(here, nodes, found)).splitlines()
    other_python = sorted(node for node in found if "python" in found[node])
    packages = [name for name in here if name != "python"]
    packages = [name for name in packages if any(name in n for n in found.values())]
    lines.append("")
    if other_python:
        lines.append(
            f"Functions from here do not run on {', '.join(other_python)}: compiled "
            f"code is bound to one minor version of Python. Start nodes with Python "
            f"{PYTHON}, or this notebook with theirs."
        )
    if packages:
        pinned = " ".join(f"{name}=={here[name]}" for name in packages)
        lines.append(
            "Objects may fail to unpickle in another version. On those nodes: pip "
            f"install {pinned}. If a package was upgraded after this kernel imported "
            "it, restart the kernel."
        )
    return "\n".join(lines)
