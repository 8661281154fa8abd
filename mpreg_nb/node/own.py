"""Runs functions in the process of the node itself.

These are functions that a program registered in its own process, where nothing
is pickled on the way in, and shipped ones that were registered for a thread.
Pickles are opened here, so the module that does it is imported with the first
such call and not before.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from mpreg_nb.errors import NotPicklable
from mpreg_nb.node.pending import Pending
from mpreg_nb.node.registry import ShippedFunction
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.jobs import Done, JobFailed
from mpreg_nb.wire.json_values import pack_json, unpack_json_call
from mpreg_nb.wire.messages import Call

THREADS = 32
"""Sync functions that run here at the same time; more wait."""

Inputs: TypeAlias = tuple[bytes | tuple[Buffer, ...], ...]
Ended: TypeAlias = tuple[Done | JobFailed, tuple[Buffer, ...]]


class OwnRunner:
    """The calls that run in this process."""

    def __init__(
        self, ended: Callable[[Pending, Done | JobFailed, tuple[Buffer, ...]], None]
    ) -> None:
        self._ended = ended
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._shipped: dict[str, Callable[..., Any]] = {}

    @property
    def running(self) -> int:
        """Calls that run here now."""
        return len(self._tasks)

    def run(
        self, pending: Pending, function: Callable[..., Any], inputs: Inputs
    ) -> None:
        """Run a function of this process; its end is told as a worker's would be."""
        self._begin(pending, lambda: function, inputs)

    def run_shipped(
        self, pending: Pending, shipped: ShippedFunction, inputs: Inputs
    ) -> None:
        """Run code that came over the wire, in a thread of this process."""
        self._begin(pending, partial(self._open, shipped), inputs)

    def cancel(self, call_id: bytes) -> bool:
        """Stop waiting for a call; False if it does not run here.

        A coroutine is cancelled. A thread cannot be: it runs on, unheard.
        """
        task = self._tasks.get(call_id)
        if task is None:
            return False
        task.cancel()
        return True

    def stop(self) -> None:
        """Cancel all that runs here; threads that do not end are left alone."""
        for task in self._tasks.values():
            task.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(
        self, pending: Pending, find: Callable[[], Callable[..., Any]], inputs: Inputs
    ) -> None:
        call_id = pending.call.id
        self._tasks[call_id] = asyncio.ensure_future(self._run(pending, find, inputs))

    async def _run(
        self, pending: Pending, find: Callable[[], Callable[..., Any]], inputs: Inputs
    ) -> None:
        call = pending.call
        began = time.monotonic()
        try:
            ended, parts = await self._course(call, pending.parts, find, inputs)
        except asyncio.CancelledError:
            text = "cancelled while it ran"
            ended, parts = JobFailed(id=call.id, kind="cancelled", message=text), ()
        finally:
            self._tasks.pop(call.id, None)
        run_us = int((time.monotonic() - began) * 1e6)
        if isinstance(ended, Done):
            ended = Done(id=call.id, payload=ended.payload, run_us=run_us)
        self._ended(pending, ended, parts)

    async def _course(
        self,
        call: Call,
        parts: tuple[Buffer, ...],
        find: Callable[[], Callable[..., Any]],
        inputs: Inputs,
    ) -> Ended:
        loop = asyncio.get_running_loop()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "mpreg-function")
        in_thread = partial(loop.run_in_executor, self._threads)
        try:
            function, args, kwargs = await in_thread(
                _prepare, call, parts, find, inputs
            )
            if asyncio.iscoroutinefunction(function):
                value = await function(*args, **kwargs)
            else:
                value = await in_thread(partial(function, *args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the border of user code
            return _failed(call, error)
        try:
            return await in_thread(_pack, call, value)
        except NotPicklable as error:
            failed = JobFailed(id=call.id, kind="not_picklable", message=str(error))
            return failed, ()

    def _open(self, shipped: ShippedFunction) -> Callable[..., Any]:
        from mpreg_nb.wire.payload import unpack_function

        function = self._shipped.get(shipped.version)
        if function is None:
            function = self._shipped[shipped.version] = unpack_function(shipped.parts)
        return function


def _prepare(
    call: Call,
    parts: tuple[Buffer, ...],
    find: Callable[[], Callable[..., Any]],
    inputs: Inputs,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    whole = parts or (call.payload,)
    given = tuple((i,) if isinstance(i, bytes) else i for i in inputs)
    if call.json:
        return find(), *unpack_json_call(whole, given)
    from mpreg_nb.wire.payload import unpack_call

    return find(), *unpack_call(whole, given)


def _pack(call: Call, value: object) -> Ended:
    if call.json:
        return Done(id=call.id, payload=pack_json(value)), ()
    from mpreg_nb.wire.payload import pack

    parts = pack(value, name="result")
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return Done(id=call.id, payload=parts[0]), ()
    return Done(id=call.id), parts


def _failed(call: Call, error: Exception) -> Ended:
    from mpreg_nb.wire.payload import pack_exception

    types = tuple(f"{c.__module__}.{c.__qualname__}" for c in type(error).__mro__[:-1])
    parts = pack_exception(error)
    failed = JobFailed(
        id=call.id,
        kind="application",
        message=f"{type(error).__name__}: {error}",
        types=types,
    )
    return failed, parts
