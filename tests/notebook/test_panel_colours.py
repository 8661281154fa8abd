"""The colours of the panel are those of everything else."""

import re

from mpreg_nb.notebook import widgets
from mpreg_nb.view import palette


def test_every_colour_of_a_drawing_has_its_value_on_a_dark_page() -> None:
    style = widgets.style_source()

    painted = set(re.findall(r'\[fill="(#\w{6})"\]\{fill:var\(', style))

    drawn = {tone.ink.light for tone in palette.TONES.values()}
    drawn |= {tone.ground.light for tone in palette.TONES.values()}
    drawn |= {hue.light for hue in palette.HUES}
    drawn |= {colour.light for colour in widgets.OF_THE_PAGE.values()}
    assert drawn <= painted


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
