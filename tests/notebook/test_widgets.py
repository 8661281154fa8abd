"""Live views in a notebook, with a front end that only notes what it is sent."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm
from IPython.core.formatters import DisplayFormatter

from mpreg_nb.cluster.live import LiveView, updates_of
from mpreg_nb.notebook import panels
from mpreg_nb.notebook import widgets as esm
from mpreg_nb.notebook.panels import Panels
from mpreg_nb.notebook.widgets import FULL_EVERY_S, LiveWidget
from mpreg_nb.view.live import routes
from mpreg_nb.view.live.panel import VIEWS
from tests.support.builders import call
from tests.support.watched_cluster import Watched

WIDGET = "application/vnd.jupyter.widget-view+json"


class DummyComm(BaseComm):
    """Notes what would be sent, as (kind, data)."""

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: Any = None,
        buffers: Any = None,
        **keys: Any,
    ) -> None:
        data = data or {}
        for (name,), buffer in zip(
            data.get("buffer_paths", ()), buffers or (), strict=True
        ):
            data["state"][name] = bytes(buffer)
        sent.append((msg_type, self.comm_id, data))


sent: list[tuple[str, str, dict[str, Any]]] = []


class Publisher:
    """Notes what would be displayed."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []

    def publish(self, **display: Any) -> None:
        self.shown.append(display)


class Shell:
    """As much of a shell as panels need; `cell` and `request` are of its front end."""

    def __init__(self) -> None:
        self.display_pub = Publisher()
        self.cell, self.request = "", "r1"

    def get_parent(self) -> dict[str, Any]:
        return {
            "header": {"msg_id": self.request},
            "metadata": {"cellId": self.cell} if self.cell else {},
        }


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    monkeypatch.setattr(comm, "create_comm", DummyComm)
    sent.clear()
    yield
    sent.clear()


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def cluster() -> Iterator[Watched]:
    made = Watched("n1", "n2")
    yield made
    made.end_views()


def model_of(display: dict[str, Any]) -> str:
    model: str = display["data"].get(WIDGET, {}).get("model_id", "")
    return model


def shown(panels: Panels, shell: Shell, view: LiveView) -> LiveWidget:
    """Show a view, and return its widget: the last that was displayed."""
    from ipywidgets.widgets.widget import _instances

    panels.show(view)

    found = _instances[model_of(shell.display_pub.shown[-1])]
    assert isinstance(found, LiveWidget)
    return found


def formatted(shell: Shell, view: LiveView) -> dict[str, Any]:
    """Return the MIME bundle that IPython makes of the value of a cell."""
    formatter: Any = DisplayFormatter()
    formatter.ipython_display_formatter.for_type(LiveView, Panels(shell).show)
    bundle: dict[str, Any] = formatter.format(view)[0]
    return bundle


def press(widget: LiveWidget, content: Any) -> None:
    """Send what the script would send for a button."""
    message = {"content": {"data": {"method": "custom", "content": content}}}
    widget.comm.handle_msg({**message, "buffers": []})


def test_a_view_is_shown_as_a_still_picture_and_a_widget(
    shell: Shell, cluster: Watched
) -> None:
    view = cluster.watch("members")

    Panels(shell).show(view)

    still, moving = shell.display_pub.shown
    (state,) = [d["state"] for kind, _, d in sent if "head" in d.get("state", ())]
    assert set(moving["data"]) == {"text/plain", WIDGET}
    assert moving["data"]["text/plain"] == ""  # the still picture has the text
    assert moving["transient"]["display_id"] not in ("", state["id"])
    assert not moving["update"]
    assert still["transient"] == {"display_id": state["id"]}
    assert not still["update"]
    html = still["data"]["text/html"]
    assert html.startswith(f'<div data-mpreg-still="{state["id"]}">')
    assert "n2" in html
    assert still["data"]["text/plain"].startswith("2 nodes: 2 alive")
    assert state["views"] == ["members"]
    assert state["states"] == {"node n1": "n1 is alive", "node n2": "n2 is alive"}
    assert b"Kill node n2" in state["members"]
    assert state["routes"] == b"[]"
    assert state["head"]["state"] == "live"


def test_only_pictures_that_changed_are_sent(shell: Shell, cluster: Watched) -> None:
    view = cluster.watch("members", "routes")
    widget = shown(Panels(shell), shell, view)
    pictures = updates_of(view).current()
    sent.clear()

    widget.draw(pictures)
    unchanged = list(sent)
    widget.draw({**pictures, "routes": routes.picture([call("f", "n1")])})

    assert unchanged == []
    ((kind, _, data),) = sent
    assert kind == "comm_msg"
    assert set(data["state"]) == {"routes"}
    assert b"f on n1: 1 call" in data["state"]["routes"]


def test_a_front_end_that_is_ready_is_sent_what_changed_of_a_drawing(
    cluster: Watched,
) -> None:
    now = 100.0
    pictures = updates_of(cluster.watch("members")).current(at_once=True)
    widget = LiveWidget(pictures, id="a", views=["members"], clock=lambda: now)
    press(widget, {"do": "ready"})

    def sent_of(*dead: str) -> Any:
        sent.clear()
        cluster.tell(*dead)
        widget.draw(updates_of(cluster.watch("members")).current(at_once=True))
        return json.loads(sent[-1][2]["state"]["members"])

    whole = sent_of("n1")
    change = sent_of("n1", "n2")
    now += FULL_EVERY_S
    later = sent_of("n1")

    assert isinstance(whole, list)
    assert change["number"] == 1
    assert len(json.dumps(change)) < len(json.dumps(whole)) / 2
    assert isinstance(later, list)


def test_the_still_picture_follows_slowly(shell: Shell, cluster: Watched) -> None:
    now = 100.0
    view = cluster.watch("members")
    panel = panels.Panel(
        view, shell.display_pub, cell="", request="", clock=lambda: now
    )
    first = updates_of(view).current()
    second: dict[str, Any] = {"members": {"rows": [], "every_s": 2.0}}
    panel.take(first)

    panel.take({**first, **second})
    now += panels.STILL_EVERY_S - 0.1
    panel.take({**first, **second})
    early = len(shell.display_pub.shown)
    now += 0.2
    panel.take({**first, **second})
    panel.take({**first, **second})
    now += panels.STILL_EVERY_S
    panel.take({**first, **second})

    assert (early, len(shell.display_pub.shown)) == (1, 2)
    assert [display["update"] for display in shell.display_pub.shown] == [False, True]


def test_the_end_leaves_the_last_state_as_a_still_picture_and_no_widget(
    shell: Shell, cluster: Watched
) -> None:
    view = cluster.watch("members")
    Panels(shell).show(view)
    still, moving = shell.display_pub.shown
    cluster.tell("n2")

    cluster.end_views()

    last_still, last_moving = shell.display_pub.shown[-2:]
    assert last_still["update"]
    assert last_still["transient"] == still["transient"]
    assert "dead" in last_still["data"]["text/html"]
    assert "ended, this is the last state" in last_still["data"]["text/plain"]
    assert last_moving["update"]
    assert last_moving["transient"] == moving["transient"]
    assert last_moving["data"] == {"text/plain": "", "text/html": ""}
    closed = {comm_id for kind, comm_id, _ in sent if kind == "comm_close"}
    opened = {comm_id for kind, comm_id, _ in sent if kind == "comm_open"}
    assert model_of(moving) in closed
    assert closed == opened


def test_buttons_act_and_what_else_comes_is_ignored(
    shell: Shell, cluster: Watched
) -> None:
    view = cluster.watch("members")
    widget = shown(Panels(shell), shell, view)

    for content in (
        {"do": "kill", "node": "n2"},
        {"do": "kill", "node": 2},
        {"do": "kill"},
        {"do": "explode", "node": "n1"},
        "kill",
        None,
    ):
        press(widget, content)

    assert cluster.killed == ["n2"]
    assert updates_of(view).current()["head"]["note"] == "n2 was killed"
    press(widget, {"do": "kill", "node": "n7"})
    assert updates_of(view).current()["head"]["error"] == "there is no node 'n7'"
    press(widget, {"do": "close"})
    assert view.closed


def test_a_run_is_cancelled_by_its_button(shell: Shell, cluster: Watched) -> None:
    class Run:
        id = "0a" * 16
        cancelled = 0

        def cancel(self) -> None:
            self.cancelled += 1

    view = cluster.watch("members")
    widget = shown(Panels(shell), shell, view)
    cluster.own_runs = (run := Run(),)

    press(widget, {"do": "cancel", "run": "0a" * 16})

    assert run.cancelled == 1
    assert "cancelled" in updates_of(view).current()["head"]["note"]


def test_a_cell_that_runs_again_ends_the_panels_of_its_last_run(
    shell: Shell, cluster: Watched
) -> None:
    panels = Panels(shell)
    shell.cell = "cell-1"
    view = cluster.watch("members")
    old = [shown(panels, shell, each) for each in (view, cluster.watch("routes"))]
    shell.cell = "cell-2"
    other = shown(panels, shell, view)

    shell.cell, shell.request = "cell-1", "r2"
    new = shown(panels, shell, cluster.watch("members"))

    assert [widget.comm for widget in old] == [None, None]
    assert other.comm is not None
    assert new.comm is not None
    assert not view.closed  # it is shown in the other cell


def test_the_oldest_of_very_many_panels_ends(shell: Shell, cluster: Watched) -> None:
    opened = Panels(shell)

    views = [cluster.watch("members") for _ in range(panels.MOST_PANELS + 2)]
    widgets = [shown(opened, shell, view) for view in views]

    alive = [widget.comm is not None for widget in widgets]
    assert alive == [False] * 2 + [True] * panels.MOST_PANELS


@pytest.mark.parametrize("plain", ["1", ""])  # asked for, and without a front end
def test_in_plain_mode_a_view_is_still(
    shell: Shell, cluster: Watched, monkeypatch: pytest.MonkeyPatch, plain: str
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", plain)
    view = cluster.watch("members")

    bundle = formatted(shell, view)

    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"].splitlines()[1:] == [
        "node  state    resources  functions",
        "n1    ● alive                     0",
        "n2    ● alive                     0",
    ]
    assert not updates_of(view).live
    assert sent == []
    assert shell.display_pub.shown == []


def test_a_view_that_has_ended_is_shown_still(shell: Shell, cluster: Watched) -> None:
    view = cluster.watch("members")
    view.close()

    bundle = formatted(shell, view)

    assert "ended, this is the last state" in bundle["text/plain"]
    assert sent == []


def test_the_drawing_of_each_view_is_sent_as_json(
    shell: Shell, cluster: Watched
) -> None:
    view = cluster.watch()

    Panels(shell).show(view)

    (state,) = [d["state"] for kind, _, d in sent if "head" in d.get("state", ())]
    drawings = {view: json.loads(state[view]) for view in VIEWS}
    assert all(drawings.values())
    assert json.loads(json.dumps(state["head"])) == state["head"]


# ------------------------------------------------------------------- the script


def test_the_script_is_one_module_with_each_part_once() -> None:
    script = esm.script_source()

    parts = re.findall(r"^// (\S+\.js)$", script, re.MULTILINE)
    assert sorted(parts) == sorted(path.name for path in esm.STATIC.glob("*.js"))
    assert len(parts) == len(set(parts))
    assert parts[-1] == esm.ENTRY
    assert not re.search(r"^import\b", script, re.MULTILINE)
    exports = re.findall(r"^export\b.*$", script, re.MULTILINE)
    assert exports == ["export default { render };"]


def test_no_two_parts_of_the_script_declare_the_same_name() -> None:
    declared = re.findall(
        r"^(?:async )?(?:function\*?|const|let|class) (\w+)",
        esm.script_source(),
        re.MULTILINE,
    )

    twice = {name for name in declared if declared.count(name) > 1}

    assert twice == set()


def test_script_and_style_ask_no_other_host() -> None:
    text = esm.script_source() + esm.style_source()

    addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))

    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text


def test_widgets_are_not_imported_before_a_view_is_shown() -> None:
    program = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_line_magic('load_ext', 'mpreg_nb')\n"
        "import mpreg_nb; mpreg_nb.up\n"
        "print(*sorted({'anywidget', 'ipywidgets', 'pandas'} & set(sys.modules)))\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert run.stdout.splitlines()[1:] == [""]
