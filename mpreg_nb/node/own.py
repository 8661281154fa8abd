"""Runs functions in the process of the node itself.

These are functions that a program registered in its own process, where nothing
is pickled on the way in, and shipped ones that were registered for a thread.
Pickles are opened here, so the module that does it is imported with the first
such call and not before.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import NotPicklable
from mpreg_nb.node.pending import Pending
from mpreg_nb.node.registry import ShippedFunction
from mpreg_nb.settings import INLINE_BYTES
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.failure_report import argument_types, unpicklable
from mpreg_nb.wire.items import pack_items, take_apart
from mpreg_nb.wire.jobs import Done, JobFailed
from mpreg_nb.wire.json_values import pack_json, unpack_json_call
from mpreg_nb.wire.messages import Call
from mpreg_nb.wire.raised import message_of, raised_class, type_names

THREADS = 32
"""Sync functions that run here at the same time; more wait."""

Inputs: TypeAlias = tuple[bytes | tuple[Buffer, ...], ...]
Ended: TypeAlias = tuple[Done | JobFailed, tuple[Buffer, ...]]
Find: TypeAlias = Callable[[], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A coroutine function and what to call it with, on the event loop."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


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

    def forget_code(self, version: str) -> None:
        """Let go of a function that came over the wire."""
        self._shipped.pop(version, None)

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

    def _begin(self, pending: Pending, find: Find, inputs: Inputs) -> None:
        call_id = pending.call.id
        self._tasks[call_id] = asyncio.ensure_future(self._run(pending, find, inputs))

    async def _run(self, pending: Pending, find: Find, inputs: Inputs) -> None:
        call = pending.call
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            ended, parts = await self._course(call, pending.parts, find, inputs)
        except asyncio.CancelledError:
            text = "cancelled while it ran"
            ended, parts = JobFailed(id=call.id, kind="cancelled", message=text), ()
        finally:
            self._tasks.pop(call.id, None)
        run_us = int((loop.time() - began_s) * 1e6)
        self._ended(pending, msgspec.structs.replace(ended, run_us=run_us), parts)

    async def _course(
        self, call: Call, parts: tuple[Buffer, ...], find: Find, inputs: Inputs
    ) -> Ended:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "mpreg-function")
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        begun = await in_thread(_run_or_begin, call, parts, find, inputs)
        if not isinstance(begun, _Begun):
            return begun
        try:
            value = await begun.function(*begun.args, **begun.kwargs)
        except BaseException as error:  # the border of user code
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise  # the call was cancelled, and not by the function itself
            return _failed(call, error, begun.args, begun.kwargs)
        return await in_thread(_packed, call, value)

    def _open(self, shipped: ShippedFunction) -> Callable[..., Any]:
        from mpreg_nb.wire.payload import unpack_function

        function = self._shipped.get(shipped.version)
        if function is None:
            function = self._shipped[shipped.version] = unpack_function(shipped.parts)
        return function


def _run_or_begin(
    call: Call, parts: tuple[Buffer, ...], find: Find, inputs: Inputs
) -> Ended | _Begun:
    """Run a function to its end; one that wants the event loop is given back."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    try:
        function = take_apart if call.split else find()
        args, kwargs = _arguments(call, parts, inputs)
        if asyncio.iscoroutinefunction(function):
            return _Begun(function, args, kwargs)
        value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - the border of user code
        return _failed(call, error, args, kwargs)
    return _packed(call, value)


def _arguments(
    call: Call, parts: tuple[Buffer, ...], inputs: Inputs
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    whole = parts or (call.payload,)
    given = tuple((i,) if isinstance(i, bytes) else i for i in inputs)
    if call.json:
        return unpack_json_call(whole, given)
    from mpreg_nb.wire.payload import unpack_call

    return unpack_call(whole, given)


def _packed(call: Call, value: object) -> Ended:
    from mpreg_nb.wire.payload import pack

    parts: tuple[Buffer, ...]
    try:
        if call.json:
            parts = (pack_json(value),)
        elif call.split and isinstance(value, list):
            parts = pack_items(value)
        else:
            parts = pack(value, name="result")
    except NotPicklable as error:
        text = unpicklable(error)
        failed = JobFailed(id=call.id, kind="not_picklable", message=text)
        return failed, ()
    except BaseException as error:  # noqa: BLE001 - pickling runs user code
        return _failed(call, error, (), {})
    if _travels_inline(parts):
        return Done(id=call.id, payload=bytes(parts[0])), ()
    return Done(id=call.id), parts


def _failed(
    call: Call,
    error: BaseException,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Ended:
    from mpreg_nb.wire.payload import pack_exception

    cls = raised_class(error)
    parts = pack_exception(error)
    inline = _travels_inline(parts)
    failed = JobFailed(
        id=call.id,
        kind="application",
        message=f"{cls.__name__}: {message_of(error)}",
        types=type_names(cls),
        payload=bytes(parts[0]) if inline else b"",
        argument_types=argument_types(args, kwargs),
    )
    return failed, () if inline else parts


def _travels_inline(parts: tuple[Buffer, ...]) -> bool:
    return len(parts) == 1 and len(parts[0]) <= INLINE_BYTES
