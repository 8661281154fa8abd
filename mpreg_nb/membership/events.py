"""Effects and events that membership returns, and link events that it receives.

A driver carries out `Effect`s in the order in which they come. It reports every
change of a control link by `LinkEvent`, including the outcome of each `Dial`.
"""

import enum
from typing import TypeAlias

import msgspec

from mpreg_nb.membership.member import Member
from mpreg_nb.protocol.gossip import Control, Load, NodeName, Offer


class LinkEvent(enum.Enum):
    """A change of the control link to a peer."""

    UP = "up"
    """The handshake succeeded; the name of the peer is known."""

    DOWN = "down"
    """Lost without a close: reset, end of stream, broken frame."""

    CLOSED = "closed"
    """Closed in order by either side (idle, duplicate, leaving): no evidence."""

    REFUSED = "refused"
    """A dial was refused at every url: nobody listens there."""

    TIMED_OUT = "timed out"
    """A dial got no answer in time; proves nothing about the peer."""


# ----------------------------------------------------------------- effects


class Send(msgspec.Struct, frozen=True):
    """Send `message` on the control link to `peer`; without a link, drop it."""

    peer: NodeName
    message: Control


class Dial(msgspec.Struct, frozen=True):
    """Open a control link, trying `urls` in order.

    `to` is a node's name, or the url itself for a seed (names hold no colon).
    Success is reported as UP of the name that the handshake told; failure as
    REFUSED or TIMED_OUT of `to`. A dial to a name that is being dialled already
    is not asked for again before its outcome was reported.
    """

    to: str
    urls: tuple[str, ...]


class Close(msgspec.Struct, frozen=True):
    """Close the control link to `peer` in order (code 1000); report nothing."""

    peer: NodeName


class Notify(msgspec.Struct, frozen=True):
    """Publish an event to the other parts of the node."""

    event: "Event"


Effect: TypeAlias = Send | Dial | Close | Notify


# ------------------------------------------------------- events of members


class Joined(msgspec.Struct, frozen=True):
    """A node that was unknown, dead or gone is now a member."""

    member: Member


class Restarted(msgspec.Struct, frozen=True):
    """A new process has taken over the name; `Joined` follows.

    Calls that ran on the process before it are lost.
    """

    name: NodeName
    generation: int


class Suspected(msgspec.Struct, frozen=True):
    """The member does not answer those in `by`; use it only if nothing else fits."""

    name: NodeName
    by: tuple[NodeName, ...]


class Confirmed(msgspec.Struct, frozen=True):
    """The member has refuted the suspicion against it."""

    name: NodeName


class Died(msgspec.Struct, frozen=True):
    """The member is gone: nothing may be sent to it, its offers are void."""

    name: NodeName
    by: tuple[NodeName, ...]


class Left(msgspec.Struct, frozen=True):
    """The member has left."""

    name: NodeName
    reason: str = ""  # where it told this node directly


class RttMeasured(msgspec.Struct, frozen=True):
    """A direct ping took `rtt_s` there and back; dials are not counted."""

    name: NodeName
    rtt_s: float


class LoadChanged(msgspec.Struct, frozen=True):
    """The member reported its load."""

    name: NodeName
    load: Load


class CatalogAnnounced(msgspec.Struct, frozen=True):
    """The catalog of `owner` has reached `version`.

    `delta` leads there from version - 1; None: pull it from the owner, or from
    `heard_from` if the owner cannot be reached.
    """

    owner: NodeName
    generation: int
    version: int
    delta: tuple[Offer, ...] | None
    heard_from: NodeName


# ---------------------------------------------------- events of this node


class JoinCompleted(msgspec.Struct, frozen=True):
    """The first full exchange with a member is done; others now know this node."""

    through: NodeName
    generation: int


class LeaveSpread(msgspec.Struct, frozen=True):
    """The Leave has had time to reach all members: links may be closed."""


class NameFree(msgspec.Struct, frozen=True):
    """The process that claimed `name` may have it: register its link."""

    name: NodeName
    epoch: bytes


class NameTaken(msgspec.Struct, frozen=True):
    """Another live process has `name`: refuse the link of this one."""

    name: NodeName
    epoch: bytes


class NameReplaced(msgspec.Struct, frozen=True):
    """Another process holds this node's name with a higher generation: exit."""

    generation: int


class Paused(msgspec.Struct, frozen=True):
    """This process was paused for `gap_s`; timeouts in that time are no evidence."""

    gap_s: float


Event: TypeAlias = (
    Joined
    | Restarted
    | Suspected
    | Confirmed
    | Died
    | Left
    | RttMeasured
    | LoadChanged
    | CatalogAnnounced
    | JoinCompleted
    | LeaveSpread
    | NameFree
    | NameTaken
    | NameReplaced
    | Paused
)
