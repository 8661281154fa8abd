"""What a client knows of the runs that it follows."""

import asyncio
from types import SimpleNamespace
from typing import Any

from mpreg_nb.client.runs import ClientRuns, RunRecord
from mpreg_nb.protocol.messages import (
    Cancel,
    Ids,
    RunFollowed,
    RunSnapshot,
    RunStart,
    RunWatch,
    StepPlan,
    run_id,
)


class Link:
    """A link to the node that drives the runs."""

    def __init__(self) -> None:
        self.peer = SimpleNamespace(name="n1")
        self.sent: list[Any] = []

    def send(self, message: Any, parts: Any = ()) -> None:
        self.sent.append(message)


class Node:
    """What the client asks its node, which says that the run goes on."""

    def __init__(self) -> None:
        self.entry = Link()
        self.new_id = Ids().next
        made: Any = ClientRuns
        self.runs: ClientRuns = made(self, self, None, None, snapshot=None)

    def start(self) -> RunRecord:
        """Start a run of one step."""
        plan = StepPlan(name="a", function="f", version="1", payload=b"")
        request = RunStart(id=run_id(), workflow="w", steps=(plan,))
        return self.runs.start(request, (), writer=lambda *_: None)

    async def link_to(self, name: str) -> Link:
        """Return the link of this moment."""
        return self.entry

    async def ask_node(self, name: str, request: RunWatch, **_: Any) -> None:
        """Answer that the run has not ended."""
        run = RunSnapshot(
            run=request.run,
            workflow="w",
            status="running",
            steps=(),
            edges=(),
            started_at_s=0.0,
            duration_ms=0.0,
        )
        self.runs.receive(RunFollowed(id=request.id, run=run, plans=()))

    async def change_link(self) -> None:
        """Lose the link, and have the client follow its runs over a new one."""
        lost: Any = self.entry
        self.entry = Link()
        self.runs.link_lost(lost, "it broke")
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


def test_a_cancel_that_went_with_its_link_is_sent_again() -> None:
    async def scenario() -> None:
        node = Node()
        run = node.start()
        node.runs.cancel(run)

        await node.change_link()

        assert [type(message) for message in node.entry.sent] == [Cancel]
        assert node.entry.sent[0].id == run.id

    asyncio.run(scenario())


def test_a_run_that_nobody_cancelled_is_not_cancelled_on_a_new_link() -> None:
    async def scenario() -> None:
        node = Node()
        node.start()

        await node.change_link()

        assert node.entry.sent == []

    asyncio.run(scenario())
