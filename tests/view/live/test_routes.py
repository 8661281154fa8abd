from collections.abc import Iterator

import pandas as pd
import pytest

from mpreg_nb.client.statistics import CallRow
from mpreg_nb.view.frames import Route, routes_frame
from mpreg_nb.view.live import routes
from mpreg_nb.view.palette import BUSY
from tests.support.builders import call

BLUE_PARTS = ",".join(map(str, bytes.fromhex(BUSY.mark.removeprefix("#"))))
EVIL = "<script>alert(1)</script>"


def rows() -> Iterator[CallRow]:
    yield call("train", "n1", 1_000)
    yield call("train", "n1", 3_000, status="failed")
    yield call("train", "n2", 5_000)
    yield call("load", "n2", 900)
    yield call("load", "", 10, status="failed")


def test_a_picture_has_a_cell_for_each_function_and_node_that_met() -> None:
    picture = routes.picture(rows())

    assert picture["functions"] == ["load", "train"]
    assert picture["nodes"] == ["", "n1", "n2"]
    assert [[cell and cell.calls for cell in line] for line in picture["cells"]] == [
        [1, None, 1],
        [None, 2, 1],
    ]
    train = picture["cells"][1][1]
    assert train == Route("train", "n1", 2, 1, 2 / 3, 2.0)


def test_the_frame_of_a_picture_is_the_frame_of_routes() -> None:
    picture = routes.picture(rows())

    frame = routes.frame(picture)

    pd.testing.assert_frame_equal(frame, routes_frame(rows()))


def test_cells_are_shaded_by_share_and_name_it() -> None:
    picture = routes.picture(rows())

    html, text = routes.html(picture), routes.text(picture)

    assert "67%, 1 error · 2.00 ms" in html
    assert html.count(f"background-color:rgba({BLUE_PARTS},0.40)") == 1  # the most
    assert html.count(f"background-color:rgba({BLUE_PARTS},0.31)") == 2
    assert "(no node)" in text
    assert routes.html(routes.picture(())) == routes.html(routes.picture([]))
    assert "no calls yet" in routes.text(routes.picture(()))


def test_names_are_shown_as_text() -> None:
    html = routes.html(routes.picture([call(EVIL, EVIL)]))

    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_hundred_nodes_stay_readable() -> None:
    many = [
        call(f"f{function:02}", f"n{place:03}")
        for function in range(50)
        for place in range(100)
    ]
    many += [call("f49", "n099")] * 5

    picture = routes.picture(many)
    html = routes.html(picture)

    assert html.count("<tr>") == routes.MOST_ROWS + 1
    assert ">n099</th>" in html  # it has the most calls
    assert ">f49</td>" in html
    assert "… and 20 functions and 88 nodes more: cluster.routes()" in html
    assert len(routes.frame(picture)) == 5_000


def test_plain_tables_have_neither_times_nor_the_nodes_of_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")

    text = routes.text(routes.picture(rows()))

    assert text.splitlines() == [
        "function  calls  errors",
        "load          2       1",
        "train         3       1",
    ]
