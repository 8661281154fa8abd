"""Pages and figures of real runs."""

from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.run import MOST_OUTPUT_BYTES
from mpreg_nb.errors import WorkflowFailed

pytestmark = pytest.mark.live


def ingest(rows: int) -> list[int]:
    print(f"reading {rows} rows")  # noqa: T201 - shall be in the page
    return list(range(rows))


def broken(rows: list[int]) -> int:
    raise ValueError(f"no use for {len(rows)} rows & <more>")


def large() -> bytes:
    return bytes(MOST_OUTPUT_BYTES + 1)


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def silent() -> Silent:
    return Silent()


def test_a_report_of_a_failed_run_is_one_page_with_all_that_is_known(
    tmp_path: Path,
) -> None:
    with mp.up({"n1": "data", "n2": ()}) as cluster:
        flow = cluster.workflow("sensor-report")
        raw = flow.step("raw", ingest, 3).on("data")
        model = flow.step("model", broken, raw)
        flow.step("publish", ingest, model)
        flow.step("archive", large)
        flow.step("odd", silent)
        run = flow.start()
        with pytest.raises(WorkflowFailed):
            run.wait(30)

        path = run.report(tmp_path / "r.html")
        again = run.report(str(path))

    page = path.read_text(encoding="utf-8")
    assert again == path
    assert "ValueError: no use for 3 rows &amp; &lt;more&gt;" in page
    assert "in broken" in page  # the traceback
    assert "[n1] reading 3 rows" in page
    assert "skipped (because of model)" in page
    assert "1.0 MB, kept on " in page
    assert "&lt;Silent whose repr failed: RuntimeError(" in page
    assert run.plot().axes[0].get_title(loc="left") == "Run of sensor-report by node"


def test_routes_are_drawn_with_the_nodes_that_took_nothing() -> None:
    with mp.up({"n1": "data", "n2": ()}) as cluster:
        cluster.on("data").call("echo", 1)

        (axes, _) = cluster.plot_routes().axes

    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["n1", "n2"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["echo (1)"]
