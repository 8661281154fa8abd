"""The colours of the panel are those of everything else."""

import re

from mpreg_nb.notebook import widgets
from mpreg_nb.view import palette


def tones(table: str) -> dict[str, str]:
    """Return state -> tone, as the script has them in one of its tables."""
    script = widgets.script_source()
    text = script[script.index(f"const {table} = {{") :]
    text = text[: text.index("\n};")]
    return dict(re.findall(r'(\w+): \{[^}]*?tone: "(\w+)"', text, re.DOTALL))


def named(meanings: dict[str, palette.Tone]) -> dict[str, str]:
    names = {id(tone): name for name, tone in palette.TONES.items()}
    return {meaning: names[id(tone)] for meaning, tone in meanings.items()}


def test_states_and_statuses_have_the_tones_of_the_palette() -> None:
    assert tones("NODE_LOOKS") == named(palette.NODES)
    assert tones("STEP_LOOKS") == named(palette.STATUSES)


def test_every_colour_that_the_style_sheet_names_has_a_value() -> None:
    style = widgets.style_source()

    named = set(re.findall(r"var\((--mpreg-[\w-]+)\)", style))
    set_by_script = {"--mpreg-heat"}

    assert named - set(re.findall(r"(--mpreg-[\w-]+):", style)) - set_by_script == set()


def test_dark_pages_have_the_dark_values() -> None:
    light, dark, system = widgets.style_source().splitlines()[:3]

    assert f"--mpreg-good:{palette.GOOD.ink.light};" in light
    assert dark.startswith('[data-jp-theme-light="false"] .mpreg-live')
    assert f"--mpreg-good:{palette.GOOD.ink.dark};" in dark
    assert f"--mpreg-good:{palette.GOOD.ink.dark};" in system
