"""A cluster as a `concurrent.futures.Executor`, for code that knows nothing of it.

Functions that have a name of their own are registered once, as `cluster.submit`
does. Lambdas, partial objects and methods are often created for a single call: they
travel with the call, as an argument of one function that applies them.
"""

import concurrent.futures
import itertools
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from mpreg_nb.boundary import public
from mpreg_nb.call_context import BlockedOnCluster
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.future import Future, set_owner, when_over
from mpreg_nb.cluster.calling import check_iterables
from mpreg_nb.cluster.current import Caller, CallingCluster
from mpreg_nb.cluster.function import Function
from mpreg_nb.names import name_of
from mpreg_nb.serialize.pickle import Initializer, apply, apply_each

T = TypeVar("T")

TASK = "executor"
"""The name, in tables of calls, of functions that travel with their call."""

CHUNK = "executor chunk"
"""The same for calls that have several items of one `map`."""


class ExecutorCaller(Caller, Protocol):
    """Makes calls, as an executor needs it."""

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that makes the calls."""

    def withdraw(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel the calls that no node runs yet."""

    def wait_for_callbacks(self, owner: object) -> None:
        """Wait for the callbacks of ended futures of `owner`."""


class ExecutorCluster(CallingCluster, Protocol):
    """A cluster, as its executors need it."""

    @property
    def _calling(self) -> ExecutorCaller:
        """The caller of the cluster."""


@public
class ClusterExecutor(concurrent.futures.Executor):
    """A `concurrent.futures.Executor` whose calls run on nodes of one cluster.

    Its end does not end the cluster. Its calls raise the errors of `Cluster.call`.
    """

    def __init__(
        self,
        cluster: ExecutorCluster,
        options: CallOptions,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        """Use `Cluster.executor`, which documents the arguments."""
        self._cluster = cluster
        self._options = options
        self._initializer = (
            None if initializer is None else Initializer(initializer, tuple(initargs))
        )
        self._apply = Function(apply, name=TASK, cluster=lambda: cluster)
        self._apply_each = Function(apply_each, name=CHUNK, cluster=lambda: cluster)
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()
        self._ended = False

    def __reduce__(self) -> tuple[Any, ...]:
        # In a function it is an executor of the cluster that runs the function.
        return ClusterExecutor, (self._cluster, self._options)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a node; return a future at once.

        `future.cancel()` also ends a call that already runs.

        Raises:
            RuntimeError: after `shutdown`.
            NotPicklable, PayloadTooLarge: before anything is sent.
        """
        if self._initializer is None and _has_own_name(fn):
            return self._submit(fn, args, kwargs)
        carried = _plain(fn), args, kwargs, self._initializer
        return self._submit(self._apply, carried, {}, label=_label(fn))

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Return an iterator over the results of `fn` for each item, in order.

        All calls are sent at once.

        timeout: seconds from now in which each result must arrive, else TimeoutError.
        chunksize: items per call; above 1 it is faster if an item takes less than a
            millisecond.

        Leaving the iterator early cancels the remaining calls.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        check_iterables(iterables)
        end = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)  # as map of Python
        if chunksize == 1:
            return _results([self.submit(fn, *item) for item in items], end)
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        plain, label, first = _plain(fn), _label(fn), self._initializer
        futures = [
            self._submit(self._apply_each, (plain, chunk, first), {}, label=label)
            for chunk in chunks
        ]
        return itertools.chain.from_iterable(_results(futures, end))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and wait for the accepted ones.

        wait: return when all calls have ended and the callbacks of their futures ran.
        cancel_futures: cancel the calls that no node runs yet; running ones continue.
        """
        under_way = self._end()
        if self._cluster._calling.is_of_parent:
            return  # in a forked child no call would ever end
        if cancel_futures and under_way:
            self._cluster._calling.withdraw(under_way)
        if wait:
            try:
                with BlockedOnCluster():
                    concurrent.futures.wait(under_way)
                    self._cluster._calling.wait_for_callbacks(self)
            except KeyboardInterrupt:
                self._abandon()
                raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> bool | None:
        # Stop is for the calls under way too; the wait would go on until they end.
        if isinstance(error, KeyboardInterrupt):
            self._abandon()
        return super().__exit__(kind, error, traceback)

    def _abandon(self) -> None:
        """Accept no more calls, and cancel all accepted ones, running ones too."""
        for future in self._end():
            future.cancel()

    def _end(self) -> tuple[Future[Any], ...]:
        with self._lock:
            self._ended = True
            return tuple(self._open)

    def _submit(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: str = "",
    ) -> Future[Any]:
        if self._ended:
            raise RuntimeError(
                "this executor was shut down; create a new one: cluster.executor()"
            )
        calling = self._cluster._calling
        options = replace(self._options, label=label)
        future: Future[Any] = calling.submit(function, args, kwargs, options)
        set_owner(future, self)
        with self._lock:
            self._open.add(future)
        when_over(future, self._done)
        return future

    def _done(self, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)


def _plain(function: Any) -> Any:
    return function.local if isinstance(function, Function) else function


def _label(function: Any) -> str:
    """Return the name of the user's function, for errors of its call."""
    name = function.name if isinstance(function, Function) else name_of(function)
    return name.strip("<>")


def _has_own_name(function: Any) -> bool:
    """Return whether `function` was defined under a name, in a module or a cell."""
    return isinstance(function, Function) or (
        isinstance(function, types.FunctionType) and "<" not in function.__qualname__
    )


def _results(futures: list[Future[Any]], end: float | None) -> Iterator[Any]:
    try:
        futures.reverse()
        while futures:
            left_s = None if end is None else max(0.0, end - time.monotonic())
            result = futures[-1].result(left_s)
            futures.pop()  # only now: one that is late is cancelled with the others
            yield result
    finally:
        for future in futures:
            future.cancel()
