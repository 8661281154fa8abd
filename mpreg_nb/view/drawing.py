"""A diagram that shows itself: as a picture in a notebook, as text elsewhere."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from mpreg_nb.view import svg, text
from mpreg_nb.view.images import FOLLOWS, document_image
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
        said = f"Workflow {text.sentence(self.diagram)}"
        drawn = document_image(self.svg, said)
        return f'{FOLLOWS}<div style="overflow-x:auto">{drawn}</div>'

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
