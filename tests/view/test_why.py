"""Why a step ran where it ran reads at a glance, also where it did not run."""

import pytest

from mpreg_nb.protocol.messages import NodeChance, StepChoice, StepSnapshot
from mpreg_nb.view.explain import WHY, Why


def chance(node: str, reason: str = "", **load: int) -> NodeChance:
    fields = {"in_flight": 0, "running": 0, "queued": 0, "slots": 1} | load
    return NodeChance(node=node, reason=reason, score=0.25, **fields)


def choice(chosen: str, *nodes: NodeChance, attempt: int = 1) -> StepChoice:
    return StepChoice(
        attempt=attempt,
        sent_ms=12.5,
        function="train",
        chosen=chosen,
        nodes=nodes,
        resources=frozenset({"gpu"}),
    )


def why(
    step: StepSnapshot, *choices: StepChoice, waits_for: tuple[str, ...] = ()
) -> Why:
    return Why(step, choices, driver="n1", waits_for=waits_for)


DONE = StepSnapshot(name="fit", status="done", node="n2", attempts=1)


def test_the_choice_and_what_others_lack_are_shown_node_by_node() -> None:
    said = why(DONE, choice("n2", chance("n2"), chance("n1", "lacks gpu")))

    assert str(said).splitlines() == [
        "step fit: done on n2",
        "attempt 1 → n2 · needs gpu · the only one that fits",
        "node  choice",
        "n2    ▶ chosen",
        "n1    ✗ lacks gpu",
    ]


def test_loads_and_times_are_shown_where_they_may_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")

    said = str(why(DONE, choice("n2", chance("n2", running=3, in_flight=7))))

    assert "12.5 ms after the start" in said
    assert said.splitlines()[-2].split() == [*"n2 ▶ chosen 3 0 1 7 0.25".split()]


@pytest.mark.parametrize(
    ("chosen", "nodes", "reason"),
    [
        (
            "n1",
            (chance("n1"), chance("n2")),
            "it coordinates the run and had a free slot",
        ),
        ("n1", (chance("n1", in_flight=1), chance("n2")), "better of the two that fit"),
        ("n2", (chance("n1"), chance("n2")), "better of the two that fit"),
        ("n2", tuple(map(chance, ("n1", "n2", "n3"))), "the best of the 3 that fit"),
        (
            "n2",
            tuple(chance(f"n{n}") for n in range(9)),
            "the better of two that were drawn",
        ),
        ("", (chance("n1", "lacks gpu"),), "attempt 1 → nowhere"),
    ],
)
def test_the_reason_of_the_choice_is_that_of_the_router(
    chosen: str, nodes: tuple[NodeChance, ...], reason: str
) -> None:
    assert reason in str(why(DONE, choice(chosen, *nodes)))


def test_the_chosen_node_comes_first_and_who_does_not_fit_has_no_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    nodes = chance("n1"), chance("n2"), chance("n3", "lacks gpu")

    rows = str(why(DONE, choice("n2", *nodes))).splitlines()[3:6]

    assert [row.split()[0] for row in rows] == ["n2", "n1", "n3"]
    assert [row.split()[-1] for row in rows] == ["0.25", "0.25", "0"]


def test_each_attempt_is_shown_and_a_node_that_took_over() -> None:
    tried = [choice("n2", chance("n2"), attempt=number) for number in (1, 2)]
    moved = StepSnapshot(name="fit", status="done", node="n3", attempts=2)

    said = str(why(moved, *tried))

    assert "attempt 1 → n2" in said
    assert "attempt 2 → n2" in said
    assert said.endswith("It ran on n3: n2 could not start it.")


def test_of_many_attempts_the_last_are_shown_and_all_are_in_the_frame() -> None:
    tried = [choice("n2", chance("n2"), attempt=number) for number in range(1, 31)]

    said = why(DONE, *tried)

    assert "attempt 30" in str(said)
    assert "attempt 22 " not in str(said)
    assert "… and 22 earlier choices: why.frame()" in str(said)
    assert said.frame()["attempt"].tolist() == list(range(1, 31))


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (
            StepSnapshot(name="fit", status="skipped", cause="load"),
            "step fit was not sent: it was skipped because load has no result",
        ),
        (
            StepSnapshot(name="fit", status="skipped"),
            "step fit was not sent: its condition was false",
        ),
        (
            StepSnapshot(name="fit", status="waiting"),
            "step fit was not sent yet: it waits for load",
        ),
        (
            StepSnapshot(name="fit", status="cancelled"),
            "step fit was not sent: the run was cancelled first",
        ),
        (
            StepSnapshot(name="fit", status="done", node="n2"),
            "step fit was not sent: this run uses the result of an earlier run",
        ),
        (DONE, "step fit is done; its candidates are no longer recorded"),
    ],
)
def test_a_step_without_a_choice_says_why(step: StepSnapshot, text: str) -> None:
    assert text in str(why(step, waits_for=("load",)))


def test_the_frame_has_its_columns_with_and_without_rows() -> None:
    full = why(DONE, choice("n2", chance("n2"), chance("n1", "lacks gpu"))).frame()

    assert list(full.columns) == list(why(DONE).frame().columns) == list(WHY)
    assert full["fits"].tolist() == [True, False]
    assert full["chosen"].tolist() == [True, False]
    assert full["reason"].tolist() == ["", "lacks gpu"]


def test_html_has_neither_script_nor_style_sheet_and_shows_names_as_text() -> None:
    nasty = choice("<b>", chance("<b>"), chance("<script>", "lacks <i>"))

    bundle = why(DONE, nasty)._repr_mimebundle_()

    assert set(bundle) == {"text/plain", "text/html"}
    html = bundle["text/html"]
    assert "&lt;b&gt;" in html
    assert "lacks &lt;i&gt;" in html
    assert "<script" not in html
    assert "<style" not in html
