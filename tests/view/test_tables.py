import pytest

from mpreg_nb.view.tables import Marked, Table

TABLE = Table(
    head=["node", "state", "calls"],
    rows=[
        ["東京", Marked("●", "alive", "#009e73"), "7"],
        ["n2\u202e", Marked("✗", "dead", "#d55e00"), "1,200"],
    ],
    numbers=["calls"],
    more="… and 3 more",
)


def test_text_is_aligned_by_the_columns_of_a_terminal() -> None:
    lines = str(TABLE).splitlines()

    assert lines == [
        "node      state    calls",
        "東京      ● alive      7",
        "n2\\u202e  ✗ dead   1,200",
        "… and 3 more",
    ]


def test_html_has_inline_styles_only_and_says_the_state_in_words() -> None:
    html = TABLE.html

    assert '<span style="color:#009e73">●</span> alive' in html
    assert html.count("text-align:right") == 3
    assert "<style" not in html
    assert "class=" not in html
    assert "n2\\u202e" in html  # would turn the rest of the line around


@pytest.mark.parametrize("place", ["head", "cell", "mark", "more"])
def test_no_text_becomes_html(place: str) -> None:
    evil = "<script>alert('x')</script>&\""
    table = Table(
        head=[evil if place == "head" else "a", "b"],
        rows=[
            [
                evil if place == "cell" else "1",
                Marked("●", evil if place == "mark" else "2", "#000"),
            ]
        ],
        more=evil if place == "more" else "",
    )

    html = table.html

    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;" in html


def test_a_table_without_rows_is_its_head() -> None:
    assert str(Table(head=["a", "b"], rows=[])) == "a  b"
