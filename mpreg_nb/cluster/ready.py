"""The one line by which a node process says that it can be talked to."""

import msgspec

UNREADY_BYTES = 64 * 1024
"""Longest line on standard output; start-up files of a site may print there too."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself."""

    name: str
    url: str
    pid: int
    cluster_id: str


class _Line(Ready, frozen=True, kw_only=True):
    ready: bool


class ReadyReader:
    """Finds the ready line in what a node prints; other lines are passed over."""

    def __init__(self, name: str, cluster_id: str) -> None:
        """Expect this node; an empty `cluster_id` takes any cluster."""
        self._name = name
        self._cluster_id = cluster_id
        self._rest = b""  # of a line whose end has not come

    def receive(self, piece: bytes) -> Ready | None:
        """Return what the node says, once its line is complete.

        Raises ValueError, with the reason, when it is not the expected node.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > UNREADY_BYTES:
            raise ValueError("its output is not a ready line")
        for line in lines:
            try:
                said = msgspec.json.decode(line, type=_Line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if said.ready:
                return self._checked(said)
        return None

    def _checked(self, said: _Line) -> Ready:
        if said.name != self._name:
            raise ValueError(f"it calls itself {said.name!r}")
        if self._cluster_id not in {"", said.cluster_id}:
            raise ValueError("it started in another cluster")
        return Ready(
            name=said.name, url=said.url, pid=said.pid, cluster_id=said.cluster_id
        )
