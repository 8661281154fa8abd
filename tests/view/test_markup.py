"""Elements as lists: written as SVG, and the difference between two drawings."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.view.markup import Element, Node, difference, element, svg_markup

EVIL = "<b onclick=alert(1)>\"'&"


def applied(before: list[Node], changes: list[Any] | None) -> list[Node]:
    """The children that the script of the panel makes of `before`."""
    if changes is None:
        return before
    now: list[Node] = []
    for change in changes:
        if isinstance(change, str) or isinstance(change[0], str):
            now.append(change)
        elif len(change) == 2:
            now += before[change[0] : change[0] + change[1]]
        else:
            place, attributes, inner = change
            tag, old, *children = before[place]
            merged = {**old, **(attributes or {})}
            kept = {name: value for name, value in merged.items() if value is not None}
            now.append([tag, kept, *applied(children, inner)])
    return now


NODES = st.recursive(
    st.text("ab", max_size=2),
    lambda inner: st.builds(
        lambda tag, attributes, children: [tag, attributes, *children],
        st.sampled_from(["g", "rect"]),
        st.dictionaries(st.sampled_from(["x", "key", "fill"]), st.sampled_from("123")),
        st.lists(inner, max_size=4),
    ),
    max_leaves=20,
)


@given(before=st.lists(NODES, max_size=5), now=st.lists(NODES, max_size=5))
def test_the_changes_to_a_drawing_make_the_next_one(
    before: list[Node], now: list[Node]
) -> None:
    assert applied(before, difference(before, now)) == now


def test_what_stays_is_not_sent_again() -> None:
    def bars(first: int) -> list[Element]:
        return [
            element("rect", x=place, key=str(place))
            for place in range(first, first + 100)
        ]

    changes = difference(bars(0), bars(3))

    assert changes == [[3, 97], *bars(100)[:3]]


def test_an_element_that_changes_is_sent_with_what_changed() -> None:
    before = [element("g", "a", key="n1", x=1, y=2), element("g", "b", key="n2")]
    now = [element("g", "a", key="n1", x=5, fill="red"), element("g", "c", key="n2")]

    changes = difference(before, now)

    assert changes == [
        [0, {"x": "5", "fill": "red", "y": None}, None],
        [1, None, ["c"]],
    ]


def test_markup_has_no_names_as_markup_and_nothing_for_scripts() -> None:
    drawn = element(
        "text",
        EVIL,
        x=1.25,
        fill=EVIL,
        title_text=EVIL,
        class_="mpreg-name",
        data_item="n1",
        aria_label="n1",
        role="img",
        tip=["n1", [], ""],
        key="n1",
    )

    written = svg_markup(drawn)

    safe = "&lt;b onclick=alert(1)&gt;&quot;&#x27;&amp;"
    assert written == f'<text x="1.2" fill="{safe}"><title>{safe}</title>{safe}</text>'
