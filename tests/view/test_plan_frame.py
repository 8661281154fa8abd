"""A plan reads at a glance: who fits, who would be chosen, what the others lack."""

import pickle
from typing import Any

import pandas as pd
import pytest

from mpreg_nb.view.explain import PlanRow, plan_frame


def row(step: str = "fit", **changed: object) -> PlanRow:
    fields: dict[str, object] = {
        "step": step,
        "function": "train",
        "version": "3f2a91" * 5 + "00",
        "resources": ("gpu",),
        "candidates": ("gpu-1", "gpu-2"),
        "rejected": (
            ("cpu-1", "lacks gpu"),
            ("cpu-2", "lacks gpu"),
            ("old-1", "suspect"),
        ),
        "chosen": "gpu-2",
        "loads": (("gpu-1", "1 of 1 busy, 3 queued"), ("gpu-2", "0 of 1 busy")),
    }
    return PlanRow(**(fields | changed))  # type: ignore[arg-type]


def test_the_choice_comes_first_and_reasons_are_shown_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")

    plan = plan_frame([row()])

    assert "▶ gpu-2 (0 of 1 busy)" in repr(plan)
    assert "gpu-1 (1 of 1 busy, 3 queued)" in repr(plan)
    assert "cpu-1, cpu-2 lack gpu; old-1 suspect" in repr(plan)


def test_plain_mode_shows_no_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    assert "busy" not in repr(plan_frame([row()]))


def test_a_step_that_fits_nowhere_says_so() -> None:
    plan = plan_frame([row(candidates=(), chosen="", loads=())])

    assert "✗ nowhere" in repr(plan)


def test_names_are_escaped_and_there_is_no_script_or_style_sheet() -> None:
    plan: Any = plan_frame([row(step="<script>alert(1)</script>")])
    html = plan._repr_html_()

    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<style" not in html


def test_it_is_a_frame_to_compute_with() -> None:
    plan = plan_frame([row("a"), row("b")])

    parts = [plan[["step", "chosen"]], plan[plan["step"] == "b"], plan.copy()]

    assert isinstance(plan, pd.DataFrame)
    assert all(isinstance(part, pd.DataFrame) for part in parts)
    assert "rejected" in repr(parts[2])  # parts show themselves as other frames do
    assert parts[1]["rejected"].item().startswith("cpu-1: lacks gpu; ")
    assert pickle.loads(pickle.dumps(plan)).equals(pd.DataFrame(plan))


def test_a_large_plan_says_how_much_it_leaves_out() -> None:
    plan = plan_frame([row(f"step {number}") for number in range(200)])

    assert len(plan) == 200
    assert "… and 140 more steps" in repr(plan)
    assert len(repr(plan).splitlines()) < 70
