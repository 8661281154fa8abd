"""What an MPREG server is started with."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields
from hashlib import sha256
from secrets import token_hex
from typing import Any, Self

from mpreg_nb.membership.knobs import PROFILES
from mpreg_nb.names import check_name, check_resources, nearest
from mpreg_nb.settings import NodeSettings

DEFAULT_CLUSTER = "default-cluster"
"""What servers without a `cluster_id` have in common until they meet another."""


@dataclass(frozen=True)
class MPREGSettings:
    """The settings of one server. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one; `MPREGServer.url` tells."""

    name: str | None = None
    """Unique in the cluster; None makes one up."""

    resources: Iterable[str] | None = None
    peers: Iterable[str] | None = None
    """URLs of servers to join. Those that are not there yet are dialled again."""

    connect: str | None = None
    """One more of `peers`."""

    cluster_id: str = ""
    """Any text; servers of another one are refused. Empty: that of the peers."""

    advertised_urls: Iterable[str] | None = None
    """Told to others, where the bound address is not the one to dial."""

    gossip_interval: float | None = None
    """Between two rounds of gossip; the nearest profile of membership is taken, as
    its figures depend on each other: 0.1 local, 0.2 lan, 0.5 wan. None: local."""

    log_level: str | int | None = None
    """Of the logger "mpreg_nb", from the start of the server on."""

    json_open: bool = False
    """Answer JSON calls without a token; on loopback only."""

    token: str | None = None
    """None finds the user's own, as every process of the user does."""

    workers: int = 0
    """Processes for functions that notebooks register here. Those of
    `register_command` run in the server's own process and need none."""

    slots: int = 1
    """Calls at once in one worker."""

    drain: float = 10.0
    """How long `shutdown` lets running calls go on."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse settings that there are not, with the nearest that there is."""
        known = [known.name for known in fields(cls)]
        for given in kwargs:
            if given not in known:
                meant = nearest(given, known)
                hint = (
                    f"Did you mean {meant!r}?"
                    if meant
                    else f"The settings are: {known}"
                )
                raise TypeError(f"MPREGSettings has no setting {given!r}. {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        name = f"server-{token_hex(3)}" if self.name is None else self.name
        self._set("name", check_name("node", name))
        self._set("resources", check_resources(self.resources or ()))
        for field in ("peers", "advertised_urls"):
            self._set(field, _urls(field, getattr(self, field)))
        if self.connect is not None:
            _urls("connect", self.connect)
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise TypeError(f"port must be a number, not {self.port!r}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.gossip_interval is not None and not self.gossip_interval > 0:
            raise ValueError(
                f"gossip_interval must be above 0, not {self.gossip_interval}"
            )
        if self.log_level is not None:
            self._set("log_level", _level(self.log_level))

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        shown = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name != "token"
        )
        return f"MPREGSettings({', '.join(shown)})"

    @property
    def node(self) -> NodeSettings:
        """The same settings, in the form that a node takes."""
        peers = tuple(self.peers or ())
        return NodeSettings(
            name=str(self.name),
            resources=frozenset(self.resources or ()),
            host=self.host,
            port=self.port,
            join=(*peers, self.connect) if self.connect else peers,
            cluster_id=hashed(self.cluster_id) if self.cluster_id else "",
            workers=self.workers,
            slots=self.slots,
            profile=_profile(self.gossip_interval),
            advertised=tuple(self.advertised_urls or ()),
            json_open=self.json_open,
            drain_s=self.drain,
        )


def hashed(cluster_id: str) -> str:
    """Return the id as nodes have it: 32 hexadecimal digits.

    >>> hashed("demo")
    '2a97516c354b68848cdbd8f54a226a0a'
    >>> hashed("0123456789abcdef0123456789abcdef")
    '0123456789abcdef0123456789abcdef'
    """
    if len(cluster_id) == 32 and not set(cluster_id) - set("0123456789abcdef"):
        return cluster_id
    return sha256(cluster_id.encode()).hexdigest()[:32]


def _profile(gossip_interval_s: float | None) -> str:
    if gossip_interval_s is None:
        return "local"
    return min(
        PROFILES,
        key=lambda name: abs(PROFILES[name].gossip_interval_s - gossip_interval_s),
    )


def _urls(field: str, given: Iterable[Any] | None) -> tuple[str, ...]:
    urls = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    for url in urls:
        if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
            raise ValueError(
                f"{url!r} in {field} is not a server's URL: ws://HOST:PORT or "
                "wss://HOST:PORT"
            )
    return urls


def _level(given: str | int) -> int:
    if isinstance(given, int):
        return given
    levels = logging.getLevelNamesMapping()
    if given.upper() not in levels:
        raise ValueError(
            f"{given!r} is not a log level. The levels are: {', '.join(levels)}"
        )
    return levels[given.upper()]
