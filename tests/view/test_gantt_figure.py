"""The figure of a run."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpreg_nb.protocol.messages import StepSnapshot, StepStatus
from mpreg_nb.view.figures import gantt_figure
from mpreg_nb.view.timeline import MOST_LABELS


def step(
    name: str,
    node: str = "n1",
    *,
    at_ms: float | None = None,
    run_ms: float | None = None,
    queued_ms: float = 0.0,
    status: StepStatus = "done",
    items: int = 0,
    items_done: int = 0,
) -> StepSnapshot:
    return StepSnapshot(
        name=name,
        status=status,
        node=node,
        started_ms=at_ms,
        queued_ms=queued_ms,
        run_ms=run_ms,
        items=items,
        items_done=items_done,
    )


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def bars(figure: Figure) -> list[tuple[float, float, bool]]:
    """Where each begins and ends, and whether it is hatched."""
    return [
        (
            round(patch.get_x(), 3),  # type: ignore[attr-defined]
            round(patch.get_x() + patch.get_width(), 3),  # type: ignore[attr-defined]
            bool(patch.get_hatch()),
        )
        for patch in axes_of(figure).patches
    ]


def said(figure: Figure) -> list[str]:
    return [text.get_text() for text in axes_of(figure).texts]


def test_a_step_is_a_hatched_bar_while_it_waits_and_a_full_one_while_it_runs() -> None:
    figure = gantt_figure(
        "w", [step("raw", at_ms=100.0, queued_ms=40.0, run_ms=300.0)], 500.0
    )

    assert bars(figure) == [(60.0, 100.0, True), (100.0, 400.0, False)]
    assert "raw" in said(figure)


def test_nodes_are_named_and_steps_at_the_same_time_stand_below_each_other() -> None:
    figure = gantt_figure(
        "w",
        [
            step("a", "n2", at_ms=0.0, run_ms=500.0),
            step("b", "n1", at_ms=0.0, run_ms=500.0),
            step("c", "n2", at_ms=100.0, run_ms=500.0),
            step("d", "n2", at_ms=500.0, run_ms=100.0),
        ],
        600.0,
    )

    axes = axes_of(figure)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["n1", "n2"]
    lanes = {patch.get_y() for patch in axes.patches}  # type: ignore[attr-defined]
    assert len(lanes) == 3


def test_the_figure_has_a_title_and_units() -> None:
    for ends_ms, unit in ((900.0, "ms"), (9_000.0, "s"), (900_000.0, "min")):
        figure = gantt_figure("w", [step("a", at_ms=0.0, run_ms=ends_ms)], ends_ms)

        axes = axes_of(figure)
        assert axes.get_title(loc="left") == "Run of w by node"
        assert axes.get_xlabel() == f"time since the run started, {unit}"
        assert axes.get_ylabel() == "node"
        assert axes.get_xlim()[1] * {"ms": 1, "s": 1e3, "min": 6e4}[unit] >= ends_ms


def test_failures_are_shown_by_mark_and_word() -> None:
    figure = gantt_figure(
        "w",
        [
            step("a", at_ms=0.0, run_ms=5.0, status="failed"),
            step("b", at_ms=0.0, run_ms=5.0, status="cancelled"),
            step("c", at_ms=0.0, run_ms=5.0, status="fallback"),
            step("d", at_ms=0.0, run_ms=5.0, status="undone"),
        ],
        900.0,
    )

    assert said(figure)[1:] == [
        "✗ a: failed",
        "■ b: cancelled",
        "↳ c: fallback",
        "↶ d: undone",
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["✗ failed", "■ cancelled", "↳ fallback", "↶ undone"]


def test_a_step_under_way_ends_now() -> None:
    figure = gantt_figure(
        "w",
        [step("a", "n1, n2", at_ms=100.0, status="running", items=12, items_done=7)],
        900.0,
    )

    assert bars(figure) == [(100.0, 900.0, False)]
    assert "► a: running, 7 of 12 done" in said(figure)
    assert [t.get_text() for t in axes_of(figure).get_yticklabels()] == ["several"]


def test_steps_that_did_not_begin_are_named() -> None:
    figure = gantt_figure(
        "w",
        [
            step("a", at_ms=0.0, run_ms=5.0, status="failed"),
            *(step(f"s{number}", status="skipped") for number in range(8)),
        ],
        5.0,
    )

    assert said(figure)[0] == (
        "9 steps, 5.00 ms; not started: s0 (skipped), s1 (skipped), s2 (skipped), "
        "s3 (skipped), s4 (skipped), s5 (skipped) and 2 more"
    )


def test_a_run_that_has_not_started_says_so() -> None:
    figure = gantt_figure("w", [step("a", status="waiting")], 0.0)

    assert said(figure)[1] == "no step has started"
    assert bars(figure) == []


def test_of_many_steps_only_those_with_room_are_labelled() -> None:
    many = [
        step(f"s{place}", at_ms=place * 10.0, run_ms=10.0)
        for place in range(MOST_LABELS)
    ]
    failed = step("bad", at_ms=MOST_LABELS * 10.0, run_ms=1.0, status="failed")

    figure = gantt_figure("w", [*many, failed], 10_000.0)

    assert len(bars(figure)) == MOST_LABELS + 1
    assert [text for text in said(figure)[1:] if text] == ["✗"]


def test_names_are_no_formulas() -> None:
    figure = gantt_figure("$x^2$", [step("$y_1$", "$n_1$", at_ms=0.0, run_ms=5.0)], 5.0)

    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert r"\$y_1\$" in said(figure)


def test_letters_that_the_font_lacks_are_no_warning() -> None:
    figure = gantt_figure("\u6771\u4eac", [step("\u6771", at_ms=0.0, run_ms=5.0)], 5.0)

    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
