from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.view.live import (
    calls,
    head,
    latency,
    members,
    panel,
    routes,
    runs,
    topology,
)
from mpreg_nb.view.live.head import CallRate
from mpreg_nb.view.live.lanes import Lanes
from tests.support.builders import call, node, offer, snapshot

EVIL = "<script>alert(1)</script>"


class _Tags(HTMLParser):
    """What elements a page has; all of them must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.closed[tag] += 1


def pictures() -> dict[str, Any]:
    cluster = snapshot(
        node(EVIL, EVIL, load=None),
        node("n2", state=MemberState.DEAD),
        offers=(("n2", offer("echo")),),
    )
    return {
        "head": head.picture(cluster, 1_234, CallRate(), drills=True),
        "members": members.picture(cluster, members.Readings(), ()),
        "topology": topology.picture(cluster, EVIL, {}),
        "routes": routes.picture([call(EVIL, EVIL)]),
        "latency": latency.picture(latency.Course(), []),
        "calls": calls.picture(Lanes(), cluster, 0.0),
        "runs": runs.picture([], 0.0),
    }


def test_a_panel_shows_all_its_views_without_script_and_style_sheet() -> None:
    shown = pictures()

    tags = _Tags(panel.html(shown).replace(panel.STYLE, ""))
    text = panel.text(shown)

    assert tags.opened - tags.closed == Counter(img=tags.opened["img"])
    assert not {"script", "style", "link", "iframe"} & set(tags.opened)
    assert not any(name.startswith("on") for name in tags.attributes)
    assert [line for line in text.splitlines() if line in panel.VIEWS] == list(
        panel.VIEWS
    )


def test_several_views_are_as_high_as_the_live_panel_and_say_that_they_scroll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = pictures()

    html = panel.html(shown)
    alone = panel.html({name: shown[name] for name in ("head", "routes")})
    monkeypatch.setenv("MPREG_NB_PLAIN", "1")
    plain = panel.html(shown)

    assert f"height:{panel.HEIGHT_PX}px;overflow:auto" in html
    assert "members, topology, routes, latency, calls, runs: scroll to see all" in html
    assert "px;overflow:auto" not in alone
    assert "px;overflow:auto" not in plain


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("stream", "calls"), ("task stream", "calls"), ("workers", "members")],
)
def test_the_words_of_other_programs_lead_to_a_view(asked: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        panel.chosen_views([asked])


def test_the_head_shows_calls_a_second_while_there_are_some() -> None:
    cluster, pace = snapshot(node("n1")), CallRate()
    pace.take(tuple, 0, 1_000.0)
    idle = head.picture(cluster, 0, pace, drills=True)
    pace.take(tuple, 60, 1_005.0)
    busy = head.picture(cluster, 60, pace, drills=True)

    assert "calls/s" not in head.text(idle)
    assert head.text(busy).endswith("60 calls from here · 12 calls/s")
    assert "<img" in head.html(busy)


def test_one_view_has_no_title_of_its_own() -> None:
    shown = pictures()

    text = panel.text({name: shown[name] for name in ("head", "routes")})

    assert text.splitlines()[0] == (
        "2 nodes: 1 alive, 1 dead · 1 function · 1,234 calls from here"
    )
    assert "routes" not in text.splitlines()


def test_the_head_shows_errors_and_the_end() -> None:
    ended = {**pictures()["head"], "state": "ended", "error": f"no {EVIL}"}

    html, text = head.html(ended), head.text(ended)

    assert "ended, this is the last state" in text
    assert "✗ no <script>" in text
    assert "✗ no &lt;script&gt;" in html
    assert "<script" not in html


def test_views_are_in_one_order_and_all_are_shown_by_default() -> None:
    assert panel.chosen_views(["runs", "members", "runs"]) == ("members", "runs")
    assert panel.chosen_views([]) == panel.VIEWS


def test_an_unknown_view_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"no view 'topolgy'\. Did you mean 'topology'"
    ):
        panel.chosen_views(["members", "topolgy"])


def test_every_view_has_a_frame() -> None:
    shown = pictures()

    sizes = {view: len(panel.frame(view, shown[view])) for view in panel.VIEWS}

    assert sizes == {
        "members": 2,
        "topology": 1,
        "routes": 1,
        "latency": 0,
        "calls": 0,
        "runs": 0,
    }
