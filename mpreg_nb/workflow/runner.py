"""What a flow needs from above: somebody to execute it, somebody to draw it."""

from collections.abc import Callable, Container, Mapping
from typing import Protocol, TypeAlias, TypeVar

from mpreg_nb.workflow.diagram import Diagram
from mpreg_nb.workflow.graph import Workflow

RunT_co = TypeVar("RunT_co", covariant=True)
PlanT_co = TypeVar("PlanT_co", covariant=True)


class Runner(Protocol[RunT_co, PlanT_co]):
    """What can execute a workflow: a cluster, or a stand-in for one."""

    def run(self, workflow: Workflow) -> RunT_co:
        """Execute it, wait for the end, and raise if it failed."""
        ...

    def start(self, workflow: Workflow) -> RunT_co:
        """Begin to execute it and return at once."""
        ...

    def plan(self, workflow: Workflow) -> PlanT_co:
        """Say where each step would run now."""
        ...


class Drawing(Protocol):
    """A diagram made visible. Its `str` is a drawing in text."""

    def __str__(self) -> str: ...

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Mapping[str, str]: ...


Draw: TypeAlias = Callable[[Diagram], Drawing]
"""How a flow shows itself in a notebook, such as `mpreg_nb.view.drawing`."""
