"""What the machine of a run asks its caller to do."""

from dataclasses import dataclass
from typing import TypeAlias

from mpreg_nb.workflow.states import Part, RunStatus


@dataclass(frozen=True, slots=True)
class StartStep:
    """Send this call of `step`; say what becomes of it with both numbers."""

    step: str
    attempt: int
    part: Part = "call"


@dataclass(frozen=True, slots=True)
class CancelStep:
    """Cancel this attempt; nobody waits for its outcome any more."""

    step: str
    attempt: int
    part: Part = "call"


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing is open any more. The last effect of a run, given once."""

    status: RunStatus


Effect: TypeAlias = StartStep | CancelStep | RunEnded
