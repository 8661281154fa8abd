"""Shows how far each host is, while nodes are started on other machines."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait

from mpreg_nb.cluster.progress import ProgressReporter, as_bundle
from mpreg_nb.errors import HostFailure
from mpreg_nb.units import count
from mpreg_nb.view.diagram_text import printable
from mpreg_nb.view.tables import safe

AFTER_S = 0.5
"""Connecting takes this long; less need not be shown."""


class HostsProgress:
    """A line for each host, as `Progress`."""

    is_kept = False

    def __init__(self, stages: Callable[[], Mapping[str, str]]) -> None:
        """stages: returns what happens on each host, in a few words."""
        self._stages = stages

    @property
    def key(self) -> object:
        """Each start has a place of its own."""
        return id(self)

    def shows(self, value: object) -> bool:
        """Nothing else shows it."""
        return False

    def line(self, ended: str = "") -> str:
        """Return all hosts in one line."""
        stages = self._stages()
        if ended:
            hosts = count(len(stages), "host")
            failed = sum(stage.startswith("failed") for stage in stages.values())
            return f"{hosts} prepared" if not failed else f"{failed} of {hosts} failed"
        return " · ".join(f"{host}: {stage}" for host, stage in stages.items())

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return a line for each host; at the end one line."""
        if ended:
            return as_bundle(self.line(ended))
        lines = [f"{host}: {stage}" for host, stage in self._stages().items()]
        rows = "".join(f"<div>{safe(line)}</div>" for line in lines)
        return {
            "text/plain": printable("\n".join(lines)),
            "text/html": f'<div style="padding:2px 0">{rows}</div>',
        }


def await_hosts(
    preparing: "Future[Mapping[str, HostFailure]]",
    stages: Callable[[], Mapping[str, str]],
) -> None:
    """Wait until all hosts are ready or have failed, and show how far they are."""

    def over(timeout: float | None) -> bool:
        return bool(wait((preparing,), timeout).done)

    with ProgressReporter(HostsProgress(stages), after_s=AFTER_S) as reporter:
        reporter.wait(over)
