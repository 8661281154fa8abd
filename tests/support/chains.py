"""Jobs that follow each other in one worker, for tests of pools."""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from mpreg_nb.node.worker_pool import Outcome
from mpreg_nb.protocol.worker import BEFORE, Job, JobDone
from mpreg_nb.serialize.pickle import pack_call, unpack
from mpreg_nb.workflows.graph import Reference
from tests.support.workers import Office


class Chain:
    """One chain of jobs in a worker, each with the result of the one before."""

    def __init__(self, here: Office) -> None:
        self._here = here
        self._jobs: list[Job] = []
        self.outcomes: dict[int, Outcome] = {}
        self.takes = False  # what comes with an answer, as the driver of a run does
        self.taken: list[tuple[str, JobDone]] = []
        self._heard = asyncio.Event()

    def add(self, function: Callable[..., Any], *args: Any) -> "Chain":
        """Append a job, whose argument is the result of the job before it, if any."""
        number = len(self._jobs)
        given = (Reference("before"), *args) if number else args
        (head, *_), inputs = pack_call(given, {}, ("before",) if number else ())
        job = Job(
            id=bytes([number]) * 16,
            version=self._here.version_of(function),
            function=function.__name__,
            payload=bytes(head),
            inputs=(BEFORE,) * len(inputs),
        )
        self._jobs.append(job)
        return self

    def submit(self, limit_s: float = 60.0) -> "Chain":
        first, *others = self._jobs
        job = replace(first, then=tuple(others))
        started = self._here.started.append
        self._here.workers.submit(job, (), self._ended, started, limit_s)
        return self

    @property
    def version(self) -> str:
        """The version of the function of the first job."""
        return self._jobs[0].version

    def _ended(self, outcome: Outcome, _: object) -> None:
        self.outcomes[outcome.id[0]] = outcome
        follows = outcome.goes_on if isinstance(outcome, JobDone) else b""
        while self.takes and follows:
            found = self._here.workers.take_answer(follows)
            if found is None:
                break
            self.taken.append(found)
            follows = found[1].goes_on
        self._heard.set()

    async def until(self, *numbers: int) -> None:
        """Wait for the outcomes of these jobs."""
        async with asyncio.timeout(60):
            while not set(numbers) <= self._known():
                self._heard.clear()
                await self._heard.wait()

    def _known(self) -> set[int]:
        return {*self.outcomes, *(answer.id[0] for _, answer in self.taken)}

    def announced(self) -> int:
        """Return the number of the last job that a worker went on with."""
        ended = self.outcomes.values()
        return sum(isinstance(one, JobDone) and bool(one.goes_on) for one in ended)

    def values(self) -> list[Any]:
        return [
            unpack((outcome.payload,)) if isinstance(outcome, JobDone) else outcome
            for outcome in self.outcomes.values()
        ]
