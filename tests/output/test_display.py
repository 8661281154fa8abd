"""What functions display reaches the call that they run for, in all its forms."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.output import capture
from mpreg_nb.output.capture import DisplayRate
from tests.support.cells import run_cell
from tests.support.workers import Office, run, value_of

pytestmark = pytest.mark.live

RICH = (
    "class Rich:\n"
    "    def __init__(self, html): self.html = html\n"
    "    def __repr__(self): return 'rich'\n"
    "    def _repr_html_(self): return self.html\n"
    "    def _repr_png_(self): return b'png'\n"
    "    def _repr_latex_(self): raise NotImplementedError\n"
    "    def _repr_svg_(self): return None\n"
)
WITHOUT_IPYTHON = "import sys; sys.modules['IPython'] = None\n"


def cell(source: str) -> Any:
    return run_cell(source)["f"]


def displays(here: Office) -> list[dict[str, Any]]:
    return [json.loads(p.text) for p in here.printed if p.stream == "display"]


def displayed(tmp_path: Path, body: str, **options: Any) -> list[dict[str, Any]]:
    """Return what a function of this body displays."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    f = cell(f"{RICH}def f():\n{indented}")

    async def scenario(here: Office) -> list[dict[str, Any]]:
        _, end = here.submit(f)
        await value_of(end)
        return displays(here)

    found: list[dict[str, Any]] = run(tmp_path, scenario, **options)
    return found


@pytest.mark.parametrize("before", ["", WITHOUT_IPYTHON])
def test_an_object_is_displayed_in_all_its_forms(tmp_path: Path, before: str) -> None:
    shown = displayed(
        tmp_path, f"{before}display(Rich('<b>1</b>'), metadata={{'a': 1}})"
    )

    data = shown[0].pop("data")
    assert data == {
        "text/plain": "rich",
        "text/html": "<b>1</b>",
        "image/png": base64.b64encode(b"png").decode(),
    }
    assert shown == [{"metadata": {"a": 1}, "transient": {}, "update": False}]


@pytest.mark.parametrize("before", ["", WITHOUT_IPYTHON])
def test_a_form_that_cannot_be_made_leaves_the_others(
    tmp_path: Path, before: str
) -> None:
    f = cell(
        f"{RICH}class Broken(Rich):\n"
        "    def _repr_png_(self): return 1 / 0\n"
        f"def f():\n    {before}    display(Broken('<i>'))\n"
    )

    async def scenario(here: Office) -> tuple[list[dict[str, Any]], str]:
        _, end = here.submit(f)
        await value_of(end)
        errors = [p.text for p in here.printed if p.stream == "stderr"]
        return displays(here), "".join(errors)

    shown, errors = run(tmp_path, scenario)

    assert shown[0]["data"] == {"text/plain": "rich", "text/html": "<i>"}
    assert "ZeroDivisionError" in errors


def test_what_is_only_text_reads_as_a_print(tmp_path: Path) -> None:
    f = cell("def f():\n    display('a', [1, 2])\n    print('b')\n")

    async def scenario(here: Office) -> str:
        call_id, end = here.submit(f)
        await value_of(end)
        assert not displays(here)
        return here.prints_of(call_id)

    assert run(tmp_path, scenario) == "'a'\n[1, 2]\nb\n"


@pytest.mark.parametrize("slots", [1, 2])
def test_displays_keep_their_place_among_prints_whatever_their_size(
    tmp_path: Path, slots: int
) -> None:
    f = cell(
        f"{RICH}def f():\n"
        "    print(1)\n    display(Rich('x' * 5_000_000))\n    print(2)\n"
        "    display(Rich('y'))\n    print(3)\n"
    )

    async def scenario(here: Office) -> list[tuple[str, int]]:
        _, end = here.submit(f)
        await value_of(end)
        return [(p.stream, len(p.text)) for p in here.printed]

    kinds, sizes = zip(*run(tmp_path, scenario, slots=slots), strict=True)

    assert kinds == ("stdout", "display", "stdout", "display", "stdout")
    assert sizes[1] > 5_000_000 > 1_000 > sizes[3]


def test_functions_of_ipython_do_the_same_as_the_builtin(tmp_path: Path) -> None:
    shown = displayed(
        tmp_path,
        "from IPython.display import HTML, clear_output, display, update_display\n"
        "from IPython.display import publish_display_data\n"
        "handle = display(HTML('one'), display_id=True)\n"
        "handle.update(HTML('two'))\n"
        "update_display(HTML('three'), display_id=handle.display_id)\n"
        "clear_output(wait=True)\n"
        "publish_display_data({'text/html': 'four'})\n",
    )

    assert [one.get("data", {}).get("text/html") for one in shown] == [
        *("one", "two", "three", None, "four"),
    ]
    assert [one.get("update") for one in shown] == [False, True, True, None, False]
    ids = {one["transient"]["display_id"] for one in shown[:3]}
    assert len(ids) == 1
    assert shown[3] == {"clear": True}


def test_a_display_that_is_too_large_is_its_text_with_the_reason(
    tmp_path: Path,
) -> None:
    shown = displayed(
        tmp_path, "display(Rich('x' * 3_000_000))", max_payload_bytes=2_000_000
    )

    assert shown[0]["data"] == {
        "text/plain": "rich\n… image/png, text/html not shown: 3 MB, and a display "
        "may have 2 MB"
    }


def test_figures_are_shown_where_they_are_asked_for_and_none_is_left_open(
    tmp_path: Path,
) -> None:
    source = (
        "import matplotlib.pyplot as plt\n"
        "def f(error):\n"
        "    plt.plot([1, 2])\n    plt.show()\n    print('between')\n"
        "    plt.figure().add_subplot()\n    plt.figure()\n"
        "    if error: raise ValueError('no')\n"
    )
    f = cell(source)
    left = cell(f"{source}def f():\n    plt.show()\n    return plt.get_fignums()\n")

    async def scenario(here: Office) -> None:
        for error in (False, True):
            here.printed.clear()
            _, end = here.submit(f, error)
            await end
            shown = [
                (p.stream, "image/png" if "image/png" in p.text else p.text)
                for p in here.printed
            ]
            assert shown == [
                ("display", "image/png"),
                ("stdout", "between\n"),
                ("display", "image/png"),
                ("stdout", "<Figure size 640x480 with 0 Axes>\n"),
            ]
            assert await here.call(left) == []

    run(tmp_path, scenario)


def test_a_worker_that_displays_nothing_loads_nothing_for_it(tmp_path: Path) -> None:
    f = cell(
        "import sys\n"
        "def f():\n"
        "    names = ('IPython', 'matplotlib', 'json')\n"
        "    return [name for name in names if name in sys.modules]\n"
    )

    async def scenario(here: Office) -> Any:
        return await here.call(f)

    assert run(tmp_path, scenario) == []


def test_of_a_flood_the_last_comes_and_the_count_of_the_rest_is_true(
    tmp_path: Path,
) -> None:
    f = cell(
        f"{RICH}def f():\n    for n in range(100):\n"
        "        display(Rich(f'{n} ' + 'x' * 10**6))\n"
    )

    async def scenario(here: Office) -> tuple[int, int, str]:
        _, end = here.submit(f)
        await value_of(end)
        there = [p for p in here.printed if p.text]
        cut = sum(p.lines_cut for p in here.printed)
        return len(there), cut, json.loads(there[-1].text)["data"]["text/html"][:3]

    shown, cut, last = run(tmp_path, scenario)

    assert shown + cut == 100
    assert cut > 0
    assert last == "99 "


def test_after_a_pause_displays_are_shown_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(capture, "monotonic", lambda: now[0])
    rate = DisplayRate()
    large = bytes(40_000_000)

    first = rate.take(large), rate.take(b"small")
    now[0] += 0.5
    early = rate.take(b"small")
    now[0] += 5.0
    late = rate.take(b"small")

    assert (first, early, late) == ((True, False), False, True)
    assert rate.left_out() == (2, 10)
    assert rate.last() == b""
