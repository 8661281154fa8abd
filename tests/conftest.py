"""What every run obeys: browser tests need a browser, and CI skips nothing.

Hypothesis judges no test by its time, which is that of a machine that others use, too.
In CI it tries the same examples each time: whether a change passes is no luck. Nodes,
too, may take their time to start.

With CI_NO_SKIPS=1 in the environment a skipped test or module fails the run, unless
its reason is the machine, and tests marked `browser` run (and fail) even where no
browser is found.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CHROMIUM = Path("/usr/bin/chromium")
NO_SKIPS = os.environ.get("CI_NO_SKIPS") == "1"
THE_MACHINE = "Skipped: this machine "
"""How the reason of a skip begins that is nobody's fault."""

settings.register_profile(
    "suite",
    deadline=None,
    derandomize=NO_SKIPS,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
os.environ.setdefault("MPREG_NB_START_TIMEOUT_S", "90")


def pytest_configure() -> None:
    # A shell without job control starts background commands with SIGINT ignored,
    # and tests of Stop send it to this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if NO_SKIPS or CHROMIUM.exists():
        return
    dropped = [item for item in items if item.get_closest_marker("browser")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not item.get_closest_marker("browser")]


# tryfirst makes these the outermost wrappers, so that they see the outcome after
# pytest itself has turned expected failures into their own kind of skip.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        NO_SKIPS
        and report.skipped
        and not hasattr(report, "wasxfail")
        and THE_MACHINE not in report.longreprtext
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longreprtext}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped: {report.longreprtext}"
    return report
