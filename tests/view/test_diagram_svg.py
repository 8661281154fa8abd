"""Diagrams as pictures."""

import base64
import re
import xml.etree.ElementTree as ET
from typing import Any, cast, get_args

import pytest

from mpreg_nb.protocol.messages import StepStatus
from mpreg_nb.view.diagram_svg import (
    LINE,
    MOST_BOXES,
    PLAIN,
    SOFT_INK,
    UNDO_DASH,
    WIDEST,
    Drawing,
    draw,
)
from mpreg_nb.view.diagram_text import MARKS
from mpreg_nb.view.marks import STEP_LOOKS, Look
from mpreg_nb.workflows.builder import Flow, ref
from mpreg_nb.workflows.graph import Arrow, Box, Diagram

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('1')</script>&\"]]>\u202e\x00"


def diagram(*edges: tuple[str, str], name: str = "w") -> Diagram:
    names = dict.fromkeys(name for edge in edges for name in edge)
    return Diagram(
        name=name,
        boxes=tuple(Box(name=name) for name in names),
        arrows=tuple(Arrow(source=source, target=target) for source, target in edges),
    )


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own drawing


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


SENSOR = Diagram(
    name="sensor-report",
    boxes=(
        Box(name="raw", function="ingest", resources=("gpu", "raw-data")),
        Box(name="clean", function="clean_data", notes=("retry 2", "within 5 s")),
        Box(name="later", missing=True),
    ),
    arrows=(
        Arrow(source="raw", target="clean"),
        Arrow(source="later", target="clean", order_only=True),
    ),
)


def test_a_box_shows_name_function_resources_and_what_else_was_asked() -> None:
    shown = texts(draw(SENSOR))

    assert shown == [
        *("raw", "ingest", "gpu", "raw-data"),
        *("clean", "clean_data", "retry 2 · within 5 s"),
        *("later", "not there yet"),
        "only the order, no result",
    ]


def test_the_picture_says_what_it_is() -> None:
    root = parsed(draw(SENSOR))

    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert root.findtext(f"{SVG}title") == "Workflow sensor-report"
    assert root.findtext(f"{SVG}desc") == (
        "3 steps: raw; clean after raw and later; later"
    )


def test_the_picture_is_self_contained() -> None:
    svg = draw(SENSOR, {"raw": "done"})

    tags = {element.tag.removeprefix(SVG) for element in parsed(svg).iter()}
    assert tags == {"svg", "title", "desc", "style", "g", "rect", "path", "text"}
    attributes = {name for element in parsed(svg).iter() for name in element.keys()}
    assert attributes.isdisjoint({"style", "class", "id", "href", "onload"})
    assert re.findall(r"https?:[^\"]*|url\(", svg) == ["http://www.w3.org/2000/svg"]


def test_nothing_that_users_wrote_becomes_markup() -> None:
    evil = Diagram(
        name=EVIL,
        boxes=(
            Box(name=EVIL, function=EVIL, resources=(EVIL,), notes=(EVIL,)),
            Box(name="b"),
        ),
        arrows=(Arrow(source=EVIL, target="b"),),
    )

    svg = draw(evil, {EVIL: EVIL}, {EVIL: EVIL})

    tags = {element.tag.removeprefix(SVG) for element in parsed(svg).iter()}
    assert "script" not in tags
    assert "<script" not in svg
    assert "\\u202e\\x00" in svg
    assert svg.isprintable()


def test_a_step_that_was_referred_to_by_order_only_has_a_dashed_arrow() -> None:
    svg = draw(SENSOR)

    dashed = re.findall(r'fill="none"[^>]*stroke-dasharray="5 4"', svg)
    assert len(dashed) == 2  # the arrow, and what says what it means
    assert "only the order, no result" in texts(svg)


@pytest.mark.parametrize("status", STEP_LOOKS)
def test_a_status_is_shown_by_a_word_and_a_mark(status: str) -> None:
    svg = draw(diagram(("a", "b")), {"a": status}, {"a": "on gpu-1"})

    assert f"{status} · on gpu-1" in texts(svg)
    assert STEP_LOOKS[status].mark in svg
    assert f"<title>a, {status}, on gpu-1</title>" in svg


def test_every_status_of_a_step_has_a_look_and_a_mark() -> None:
    assert set(STEP_LOOKS) == set(MARKS) == set(get_args(StepStatus))


def test_each_status_has_a_mark_of_its_own() -> None:
    assert len({look.mark for look in STEP_LOOKS.values()}) == len(STEP_LOOKS)


def test_an_unknown_status_is_shown_by_its_word() -> None:
    assert "paused" in texts(draw(diagram(("a", "b")), {"a": "paused"}))


FIGURES = Diagram(
    name="figures",
    boxes=(
        Box(name="sensor", kind="input"),
        Box(name="raw", function="ingest", undo="delete_raw"),
        Box(name="fits", kind="map", function="fit"),
    ),
    arrows=(
        Arrow(source="sensor", target="raw"),
        Arrow(source="raw", target="fits"),
    ),
)


def test_a_map_is_a_stack_of_cards_with_the_number_of_its_items() -> None:
    unknown, known = draw(FIGURES), draw(FIGURES, counts={"fits": 1200})

    assert "fit \xd7 n" in texts(unknown)
    assert "fit \xd7 1,200" in texts(known)
    group = next(g for g in parsed(known).iter(f"{SVG}g") if g[0].text == "fits")
    assert len(group.findall(f"{SVG}rect")) == 3


def test_an_input_has_a_shape_of_its_own() -> None:
    shapes = {
        g[0].text: g[1].tag.removeprefix(SVG)
        for g in parsed(draw(FIGURES)).iter(f"{SVG}g")
    }

    assert shapes["sensor"] == "path"
    assert shapes["raw"] == "rect"
    assert "input" in texts(draw(FIGURES))


def test_what_undoes_a_step_is_a_small_dashed_box_beside_it() -> None:
    svg = draw(FIGURES)

    [group] = [g for g in parsed(svg).iter(f"{SVG}g") if "undone by" in str(g[0].text)]
    assert group[0].text == "raw is undone by delete_raw"
    assert group[1].get("stroke-dasharray") == UNDO_DASH
    assert "undo delete_raw" in texts(svg)


def test_the_legend_explains_dashes_only_where_there_are_any() -> None:
    assert "only the order, no result" not in texts(draw(FIGURES))


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4
        for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """By WCAG 2.1: 4.5 is enough for text, 3 for lines."""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("look", [PLAIN, *STEP_LOOKS.values()])
def test_text_can_be_read_on_its_ground(look: Look) -> None:
    assert contrast(look.ink, look.ground) >= 4.5
    assert contrast(SOFT_INK, look.ground) >= 4.5


def test_every_colour_has_a_value_for_dark_pages() -> None:
    svg = draw(SENSOR, {"raw": "done", "clean": "failed", "later": "skipped"})

    used = set(re.findall(r'(?:fill|stroke)="(#\w+)"', svg))

    style = parsed(svg).findtext(f"{SVG}style") or ""
    assert style.startswith("@media screen and (prefers-color-scheme:dark){")
    assert {light for light in used if f'="{light}"]' not in style} == set()


@pytest.mark.parametrize("page", ["#ffffff", "#111111", "#0d1117", "#1e1e1e"])
def test_lines_show_on_light_and_on_dark_pages(page: str) -> None:
    assert contrast(LINE, page) >= 3.0


def box_widths(svg: str) -> set[float]:
    return {
        float(element.get("width", "0"))
        for element in parsed(svg).iter(f"{SVG}rect")
        if element.get("rx") == "6"
    }


def test_long_names_are_cut_and_kept_in_full_for_the_pointer() -> None:
    name = "preprocess the sensor data of all stations " * 3
    steps = Diagram(
        name="w",
        boxes=(Box(name=name, resources=(name, *(f"r{i}" for i in range(20)))),),
        arrows=(),
    )

    svg = draw(steps)

    assert box_widths(svg) == {WIDEST}
    assert "…" in texts(svg)[0]
    assert f"<title>{name}</title>" in svg
    assert {f"r{i}" for i in range(20)} <= set(texts(svg))


def test_short_flows_go_sideways_and_long_ones_down() -> None:
    short = parsed(draw(diagram(("a", "b"), ("b", "c"))))
    long = parsed(draw(diagram(*((f"s{i}", f"s{i + 1}") for i in range(12)))))

    assert float(short.get("width", 0)) > float(short.get("height", 0))
    assert float(long.get("height", 0)) > float(long.get("width", 0))


def test_everything_is_inside_the_picture() -> None:
    root = parsed(draw(SENSOR, {"raw": "done"}))

    left, top, width, height = map(float, root.get("viewBox", "").split())
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(k, "0")) for k in ("x", "y", "width", "height"))
        assert left <= x
        assert top <= y
        assert x + w <= left + width
        assert y + h <= top + height


def test_the_same_diagram_gives_the_same_picture() -> None:
    assert draw(SENSOR, {"raw": "done"}) == draw(SENSOR, {"raw": "done"})


def test_an_empty_diagram_is_a_picture_too() -> None:
    root = parsed(draw(diagram()))

    assert root.findtext(f"{SVG}desc") == "no steps"


def test_too_many_steps_are_counted_instead_of_drawn() -> None:
    many = diagram(*((f"s{i}", f"s{i + 1}") for i in range(MOST_BOXES)))

    [said] = texts(draw(many))

    assert said.startswith("401 steps are too many to draw")


def test_a_drawing_is_an_image_in_a_notebook_and_text_elsewhere() -> None:
    drawing = Drawing(SENSOR, {"raw": "done"})

    bundle = drawing._repr_mimebundle_()

    assert bundle["text/plain"] == str(drawing) == repr(drawing)
    assert "✓" in bundle["text/plain"]
    [data] = re.findall(
        'src="data:image/svg\\+xml;base64,([^"]*)"', bundle["text/html"]
    )
    assert base64.b64decode(data).decode() == drawing.svg
    assert (
        'alt="Workflow 3 steps: raw; clean after raw and later; later"'
        in (bundle["text/html"])
    )
    assert list(drawing._repr_mimebundle_(include={"text/html"})) == ["text/html"]
    assert list(drawing._repr_mimebundle_(exclude={"text/html"})) == ["text/plain"]


def test_the_alternative_text_of_an_image_is_escaped() -> None:
    html = Drawing(diagram(('"><script>', "b")))._repr_html_()

    assert "<script" not in html
    assert "&quot;&gt;&lt;script&gt;" in html


def test_a_flow_shows_itself_by_this_drawing_even_unfinished() -> None:
    nowhere = cast(Any, None)
    flow: Flow[object, object] = Flow("w", nowhere, draw=Drawing)
    flow.step("a", "echo", ref("b")).on("gpu").step("c", "echo", ref("c"))

    assert repr(flow).splitlines() == [
        "w: 3 steps",
        "○  c  echo           ← c",
        "?  b  not there yet",
        "○  a  echo           ← b  on gpu",
    ]
    assert "image/svg+xml" in flow._repr_mimebundle_()["text/html"]
