"""Colours: readable on their grounds, one for each meaning, stable for functions."""

import pytest

from mpreg_nb.view import palette
from mpreg_nb.view.diagram_text import MARKS
from mpreg_nb.view.palette import HUES, INK, PAGE, SOFT, Colour, Hues, Tone

TEXT_CONTRAST, SHAPE_CONTRAST = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
MARK_CONTRAST = 3.5


def luminance(colour: str) -> float:
    """As WCAG 2.2 defines it."""
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (byte / 255 for byte in bytes.fromhex(colour.removeprefix("#")))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def both_contrasts(one: Colour, other: Colour) -> tuple[float, float]:
    return contrast(one.light, other.light), contrast(one.dark, other.dark)


@pytest.mark.parametrize("name", palette.TONES)
def test_text_of_each_tone_can_be_read_on_the_page_and_on_its_own_ground(
    name: str,
) -> None:
    tone = palette.TONES[name]

    pairs = [
        (tone.ink, PAGE),
        (tone.ink, tone.ground),
        (INK, tone.ground),
        (SOFT, tone.ground),
    ]

    for one, other in pairs:
        assert min(both_contrasts(one, other)) >= TEXT_CONTRAST


@pytest.mark.parametrize(
    "colour",
    [
        *(tone.ink for tone in palette.TONES.values()),
        *(part.fill for part in palette.PARTS.values()),
        *HUES,
        *(INK, SOFT, palette.LINE),
    ],
    ids=str,
)
def test_the_middle_of_a_colour_shows_on_white_and_on_black(colour: Colour) -> None:
    assert contrast(colour.middle, "#ffffff") >= SHAPE_CONTRAST
    assert contrast(colour.middle, "#111111") >= SHAPE_CONTRAST


def test_hues_differ_in_their_middle_too() -> None:
    assert len({hue.middle for hue in HUES}) == len(HUES)


@pytest.mark.parametrize("tone", palette.TONES.values(), ids=palette.TONES)
def test_a_mark_shows_on_white_and_on_black(tone: Tone) -> None:
    assert contrast(tone.mark, "#ffffff") >= MARK_CONTRAST
    assert contrast(tone.mark, "#111111") >= MARK_CONTRAST


@pytest.mark.parametrize(
    "colour", [*HUES, *palette.PERCENTILES.values(), INK, SOFT], ids=str
)
def test_labels_in_the_colour_of_their_line_can_be_read(colour: Colour) -> None:
    assert min(both_contrasts(colour, PAGE)) >= TEXT_CONTRAST


@pytest.mark.parametrize("part", palette.PARTS)
def test_parts_of_a_calls_time_show_on_the_page(part: str) -> None:
    fill = palette.PARTS[part].fill

    assert min(both_contrasts(fill, PAGE)) >= SHAPE_CONTRAST


def test_every_status_that_has_a_mark_has_a_tone() -> None:
    assert set(MARKS) <= set(palette.STATUSES)


def test_a_function_keeps_its_hue_and_shares_none_while_some_are_free() -> None:
    hues = Hues()
    names = [f"function_{number}" for number in range(len(HUES))]

    first = [hues.of(name) for name in names]
    crowded = hues.of("one_more")

    assert set(first) == set(HUES)
    assert [hues.of(name) for name in reversed(names)] == first[::-1]
    assert crowded in HUES


def test_a_function_has_the_same_hue_in_another_kernel() -> None:
    assert Hues().of("train") == Hues().of("train")
