"""`joblib.parallel_backend("mpreg")`: joblib's loops on the current cluster."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mpreg_nb.call_context import BlockedOnCluster

if TYPE_CHECKING:
    from mpreg_nb.cluster.executor import ClusterExecutor


NAME = "mpreg"
_MODULE = "joblib.parallel"
_OPTIONS = frozenset({"initializer", "initargs", "inner_max_num_threads"})
_OPTIONS |= {"nesting_level"}  # added by joblib


def register() -> None:
    """Register the backend: now, or as soon as joblib is imported. May be repeated.

    It does not import joblib.
    """
    joblib = sys.modules.get(_MODULE)
    if joblib is not None and hasattr(joblib, "register_parallel_backend"):
        joblib.register_parallel_backend(NAME, _backend)
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


def _backend(**options: Any) -> Any:
    return _backend_class()(**options)


def _backend_class() -> type:
    from joblib.parallel import (
        AutoBatchingMixin,
        ParallelBackendBase,
        SequentialBackend,
    )

    class MpregBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        """Sends batches of joblib's calls to nodes that hold `resources`."""

        supports_retrieve_callback = True
        supports_timeout = True
        default_n_jobs = -1

        def __init__(
            self, *, resources: str | Sequence[str] = (), **options: Any
        ) -> None:
            unknown = sorted(options.keys() - _OPTIONS)
            if unknown:
                raise TypeError(
                    f"the backend {NAME!r} of joblib has no option {unknown[0]!r}; it "
                    f"has: {', '.join(sorted(_OPTIONS | {'resources'}))}"
                )
            super().__init__(**options)
            self._resources = (
                (resources,) if isinstance(resources, str) else tuple(resources)
            )
            self._executor: ClusterExecutor | None = None

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            """Return how many calls run at once; -1: as many as there are slots."""
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            slots = _slots(self._resources)
            if n_jobs is None:
                return slots
            return max(1, slots + 1 + n_jobs) if n_jobs < 0 else n_jobs

        def configure(
            self,
            n_jobs: int = 1,
            parallel: Any = None,
            prefer: Any = None,
            require: Any = None,
            **options: Any,
        ) -> int:
            """Start a loop of joblib; return how many calls run at once."""
            from mpreg_nb.cluster.current import current

            self.parallel = parallel
            self._executor = current().executor(
                *self._resources,
                initializer=self.backend_kwargs.get("initializer"),
                initargs=self.backend_kwargs.get("initargs", ()),
            )
            return self.effective_n_jobs(n_jobs)

        def start_call(self) -> None:
            """Give up the slot of the call that runs this loop, if one does."""
            self._waiting = BlockedOnCluster()
            self._waiting.__enter__()

        def stop_call(self) -> None:
            """Take back the slot that `start_call` gave up."""
            self._waiting.__exit__(None, None, None)

        def submit(self, func: Callable[[], Any], callback: Any = None) -> Any:
            """Send one batch; `callback` receives its future at the end."""
            if self._executor is None:
                raise AssertionError("submit comes after configure")
            future = self._executor.submit(func)
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            """Return what the batch returned, or raise its error."""
            return out.result()

        def abort_everything(self, ensure_ready: bool = True) -> None:
            """Cancel all batches after an error or Stop."""
            if self._executor is not None:
                self._executor._abandon()
            self.reset_batch_stats()
            if ensure_ready:
                self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

        def terminate(self) -> None:
            """End a loop of joblib. The cluster continues to run."""
            if self._executor is not None:
                self._executor.shutdown(wait=False)
            self.reset_batch_stats()

        def get_nested_backend(self) -> tuple[Any, int | None]:
            """Return the backend of loops inside calls, which have one slot."""
            return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    return MpregBackend


def _slots(resources: Sequence[str]) -> int:
    from mpreg_nb.cluster.current import current, parts_of

    slots = [
        picture.record.workers * picture.record.slots
        for picture in parts_of(current()).client.state.nodes
        if picture.record.state.name == "ALIVE"
        and picture.record.resources >= set(resources)
    ]
    total: int = sum(slots)
    return max(1, total)


class _WhenImported(importlib.abc.MetaPathFinder):
    """Import hook: registers the backend as soon as joblib is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the other finders, with our loader around theirs."""
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(importlib.abc.Loader):
    """Wraps the loader of joblib: registers the backend after it has loaded."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
