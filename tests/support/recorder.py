"""A fake runner of workflows, which records what it is given."""

from dataclasses import dataclass, field

from mpreg_nb.workflows.graph import Workflow


@dataclass
class Recorder:
    """A runner that notes what it is asked."""

    asked: list[tuple[str, Workflow]] = field(default_factory=list)

    def run(self, workflow: Workflow) -> str:
        self.asked.append(("run", workflow))
        return "the run"

    def start(self, workflow: Workflow) -> str:
        self.asked.append(("start", workflow))
        return "the started run"

    def plan(self, workflow: Workflow) -> int:
        self.asked.append(("plan", workflow))
        return len(workflow.steps)
