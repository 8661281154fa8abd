"""The data lane: what is asked about runs, also by others than who began them."""

from typing import ClassVar, Literal, TypeAlias

import msgspec

from mpreg_nb.wire.message import Count, Message, Name, RequestId, Version
from mpreg_nb.wire.runs import RunPicture, StepPlan

Stream: TypeAlias = Literal["stdout", "stderr", "display"]


class Line(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one step printed or logged at once; whole lines where possible."""

    step: Name
    node: Name
    stream: Stream
    text: str
    lines_cut: Count = 0  # left out before the text, since they were too many
    characters_cut: Count = 0


class Printed(Message, frozen=True, kw_only=True, array_like=True, tag="run_printed"):
    """A step of the run `id` printed, logged or displayed something, see Output."""

    before_others: ClassVar[bool] = True

    id: RequestId
    line: Line


class RunWatch(Message, frozen=True, kw_only=True, array_like=True, tag="run_watch"):
    """Ask for all that is known of a run, and to hear what happens to it from now."""

    id: RequestId
    run: RequestId


class RunTold(Message, frozen=True, kw_only=True, array_like=True, tag="run_told"):
    """A run as it is now; what happens later is told as to who began it."""

    id: RequestId
    run: RunPicture
    plans: tuple[StepPlan, ...]  # without payloads
    lines: tuple[Line, ...] = ()  # the last that its steps printed


class RunResume(Message, frozen=True, kw_only=True, array_like=True, tag="run_resume"):
    """Begin the run `new` of what has no result in `run`; answered by RunTold."""

    id: RequestId
    run: RequestId
    new: RequestId
    versions: tuple[tuple[Name, Version], ...] = ()  # newest of these functions


class WhyAsk(Message, frozen=True, kw_only=True, array_like=True, tag="why_ask"):
    """Ask why a step of a run went where it went; answered by WhyTold."""

    id: RequestId
    run: RequestId
    step: Name


class NodeChance(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What spoke for or against one node when an attempt of a step was sent."""

    node: Name
    reason: str  # "" if it fits
    in_flight: Count  # calls that the driving node had sent there
    score: float  # expected wait, the lower the better
    running: Count | None = None  # by the node's own last account
    queued: Count | None = None
    slots: Count | None = None


class StepChoice(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where one attempt of a step was sent, and what there was to choose from."""

    attempt: Count
    sent_ms: float  # after the start of the run
    function: Name
    chosen: str  # a node; "" if it was sent nowhere
    nodes: tuple[NodeChance, ...]
    version: str = ""  # that was asked for; "": the newest
    resources: frozenset[Name] = frozenset()  # those of the registration too
    more_nodes: Count = 0  # that are left out, none of them chosen
    part: str = ""  # of the step, such as "item [3]" or "the fallback"


class WhyTold(Message, frozen=True, kw_only=True, array_like=True, tag="why_told"):
    """The choices for a step that the driving node remembers, first attempt first."""

    id: RequestId
    choices: tuple[StepChoice, ...]


class HeldAsk(Message, frozen=True, kw_only=True, array_like=True, tag="held_ask"):
    """Ask which of these results a node still holds; answered by HeldTold."""

    id: RequestId
    ids: tuple[RequestId, ...]


class HeldTold(Message, frozen=True, kw_only=True, array_like=True, tag="held_told"):
    """Those of the results that are held."""

    id: RequestId
    ids: tuple[RequestId, ...]
