"""A diagram that shows itself: as a picture in a notebook, as text elsewhere."""

import base64
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape

from mpreg_nb.view import svg, text
from mpreg_nb.view.steps import counts, details, states
from mpreg_nb.wire.runs import StepState
from mpreg_nb.workflow.diagram import Diagram


@dataclass(frozen=True, slots=True)
class Drawing:
    """A diagram, and what is known of its steps at one moment.

    states: the status of each step, a word such as "running"; may be empty.
    details: more about a status, such as "on gpu-1, 1.2 s".
    counts: of a map, how many items it has, where that is known.
    """

    diagram: Diagram
    states: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_run(cls, diagram: Diagram, steps: Iterable[StepState]) -> "Drawing":
        """Return the drawing of a run whose steps are as `steps` say."""
        steps = tuple(steps)
        return cls(diagram, states(steps), details(steps), counts(steps))

    @property
    def svg(self) -> str:
        """The picture, a self-contained SVG document."""
        return svg.draw(self.diagram, self.states, self.details, self.counts)

    def __str__(self) -> str:
        return text.draw(self.diagram, self.states, self.details, self.counts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # As an image it is shown in untrusted notebooks too, and can run nothing.
        data = base64.b64encode(self.svg.encode()).decode()
        said = escape(f"Workflow {text.sentence(self.diagram)}")
        return (
            '<div style="overflow-x:auto"><img style="max-width:none" '
            f'alt="{said}" src="data:image/svg+xml;base64,{data}"></div>'
        )

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> dict[str, str]:
        bundle = {"text/plain": str(self), "text/html": self._repr_html_()}
        return {
            mime: content
            for mime, content in bundle.items()
            if (not include or mime in include) and not (exclude and mime in exclude)
        }
