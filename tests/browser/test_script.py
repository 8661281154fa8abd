"""The files of the live panel: what no browser would complain about."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.panel_site import FOLDERS

MODULES = sorted(FOLDERS["static"].glob("*.js"))
LONGEST_FILE_LINES = 350
DECLARED = re.compile(
    r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE
)
# What turns text into markup or code, or asks another host for something.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|"
    r"new Function|\bfetch\(|XMLHttpRequest|WebSocket|https?://(?!www\.w3\.org/2000/svg)"
)


def test_no_two_modules_share_a_name() -> None:
    """They are sent as one text: a name that is there twice would hide the other."""
    names = Counter(
        name
        for path in MODULES
        for name in DECLARED.findall(path.read_text(encoding="utf-8"))
    )

    shared = {name: number for name, number in names.items() if number > 1}

    assert len(names) > len(MODULES)
    assert shared == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_makes_no_markup_of_text_and_calls_nobody(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    found = FORBIDDEN.findall(text)

    assert found == []
    assert len(text.splitlines()) <= LONGEST_FILE_LINES


def test_the_style_sheet_asks_nobody_for_anything() -> None:
    text = (FOLDERS["static"] / "live.css").read_text(encoding="utf-8")

    found = re.findall(r"url\(|@import|https?://", text)

    assert found == []


@pytest.mark.parametrize(
    "line",
    ["el.innerHTML = name;", 'fetch("x")', 'import a from "https://cdn.example/a.js";'],
)
def test_the_search_for_markup_and_calls_finds_them(line: str) -> None:
    assert FORBIDDEN.search(line)
