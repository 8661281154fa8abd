"""What a client knows of one run."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from mpreg_nb.client.output import Prints, Writer
from mpreg_nb.transport.connection import Connection
from mpreg_nb.wire.last_lines import LastLines
from mpreg_nb.wire.runs import RunPicture, SideCall, StepPlan, StepState

RunStatus = Literal["running", "done", "failed", "cancelled"]


@dataclass(slots=True, eq=False)
class RunRecord:
    """What is known of one run. Written on the loop's thread only."""

    id: bytes
    workflow: str
    steps: dict[str, StepState]
    node: str  # that drives it
    link: Connection  # over which it is followed, perhaps by way of the entry
    writer: Writer
    listeners: list[Callable[["RunRecord"], None]] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)  # step -> its function
    status: RunStatus = "running"
    duration_ms: float = 0.0
    started_at_s: float = field(default_factory=time.time)  # wall clock
    lost: Exception | None = None  # why nothing more will be heard of it
    results: dict[str, bytes] = field(default_factory=dict)  # small outputs
    lines: LastLines = field(default_factory=LastLines)
    prints: dict[str, Prints] = field(default_factory=dict)  # of steps that run
    plans: tuple[StepPlan, ...] = ()  # without arguments, where others began it
    mendable: frozenset[str] = frozenset()  # functions that may be registered anew

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen, as far as this client can know."""
        return self.status != "running" or self.lost is not None

    def changed(self) -> None:
        """Tell who listens that something happened."""
        for listener in self.listeners:
            listener(self)

    @property
    def picture(self) -> RunPicture:
        """The run as the node would tell of it, without its graph."""
        return RunPicture(
            run=self.id,
            workflow=self.workflow,
            status=self.status if self.lost is None else "failed",
            steps=tuple(self.steps.values()),
            edges=(),
            started_at_s=self.started_at_s,
            duration_ms=self.duration_ms,
        )


def mendable(plans: Iterable[StepPlan]) -> frozenset[str]:
    """Return the names of all functions that a workflow calls."""
    calls: set[str] = set()
    for plan in plans:
        calls.add(plan.function)
        sides = (plan.split, plan.fallback, plan.undo)
        calls.update(side.function for side in sides if isinstance(side, SideCall))
    return frozenset(calls)
