"""Live views as a real kernel sends them."""

import json
from typing import Any

import pytest

from tests.support.kernel import TIMEOUT_S, Cell, Kernel, kernel
from tests.support.leaks import Leaks

pytestmark = pytest.mark.live

WIDGET = "application/vnd.jupyter.widget-view+json"
SETUP = """%load_ext mpreg_nb
import threading, time
import mpreg_nb as mp
cluster = mp.up(2)
"""


class Front(Kernel):
    """A kernel, with all that came from widgets: (kind, comm, data, parent's id)."""

    def __init__(self, started: Kernel) -> None:
        """Look at a kernel in more detail."""
        vars(self).update(vars(started))
        self.comms: list[tuple[str, str, dict[str, Any], str]] = []
        self.updates: list[dict[str, Any]] = []

    def take(self) -> dict[str, Any]:
        message: dict[str, Any] = self._client.get_iopub_msg(timeout=TIMEOUT_S)
        parent = message["parent_header"].get("msg_id", "")
        content = message["content"]
        if message["msg_type"].startswith("comm_"):
            # Drawings come beside the message.
            paths = content["data"].get("buffer_paths", ())
            for (name,), buffer in zip(paths, message["buffers"], strict=True):
                content["data"]["state"][name] = json.loads(bytes(buffer))
            came = (message["msg_type"], content["comm_id"], content["data"], parent)
            self.comms.append(came)
        if message["msg_type"] == "update_display_data":
            self.updates.append(content)
        if parent in self._cells:
            self._cells[parent].messages.append(message)
        return message

    def _take(self) -> None:
        self.take()

    def states(self, model: str) -> list[dict[str, Any]]:
        """Return what was sent of a widget, in the order in which it came."""
        return [
            data["state"] for _, comm, data, _ in self.comms if comm == model and data
        ]

    def wait_for_state(self, model: str, name: str, word: str) -> None:
        """Take messages in until trait `name` of a widget holds `word`."""
        while not any(word in str(state.get(name)) for state in self.states(model)):
            self.take()

    def answer(self, text: str) -> None:
        """Send what a cell asks for by `input`, once it asks.

        A kernel drops answers that arrive before the question.
        """
        question: Any = self._client.get_stdin_msg
        question(timeout=TIMEOUT_S)
        self._client.input(text)

    def subshell(self) -> str:
        """Open a loop beside that of the cells, as JupyterLab does for widgets."""
        session, control = self._client.session, self._client.control_channel
        control.send(session.msg("create_subshell_request", {}))
        reply: Any = self._client.get_control_msg(timeout=TIMEOUT_S)
        name: str = reply["content"]["subshell_id"]
        return name

    def press(
        self, model: str, content: dict[str, Any], subshell: str | None = None
    ) -> None:
        """Send what a button of a widget sends."""
        data = {"method": "custom", "content": content}
        message = self._client.session.msg("comm_msg", {"comm_id": model, "data": data})
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self._client.shell_channel.send(message)


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch, leaks: Leaks) -> Any:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    with kernel() as started:
        made = Front(started)
        made.run(SETUP)
        yield made


def model_of(cell: Cell) -> str:
    (model,) = (
        message["content"]["data"][WIDGET]["model_id"]
        for message in cell.messages
        if WIDGET in message["content"].get("data", {})
    )
    return str(model)


def ended(cell: Cell) -> bool:
    state: str = cell.messages[-1]["content"].get("execution_state", "")
    return state == "idle"


def test_a_panel_moves_while_a_cell_runs_and_belongs_to_no_cell(front: Front) -> None:
    shown = front.run("view = cluster.watch()\nview")
    model = model_of(shown)
    running = front.start(
        "from mpreg_nb.cluster.live import updates_of\n"
        "cluster.kill('n2')\n"
        "cluster.call('echo', 1)\n"
        "until = time.monotonic() + 30\n"
        "while 'dead' not in str(updates_of(view).current()['members']):\n"
        "    assert time.monotonic() < until\n"
        "print('seen', flush=True)\n"
        "input()\n"
    )

    front.wait_for_state(model, "members", "dead")
    front.wait_for_state(model, "routes", "echo")
    front.wait_for_state(model, "head", "1 alive, 1 dead")
    front.wait_for("seen", running)
    still_running = not ended(running)
    front.answer("")
    front.wait(running)

    assert still_running
    assert {parent for _, _, _, parent in front.comms} == {""}
    displays = [m["content"]["data"] for m in shown.messages if "data" in m["content"]]
    assert ["still" in d.get("text/html", "") for d in displays] == [True, False]
    assert [WIDGET in d for d in displays] == [False, True]
    # Nothing can replace the value of a cell, so the widget is not one.
    assert "execute_result" not in shown.kinds()
    assert "error" not in running.kinds()


def test_a_button_acts_while_a_cell_runs(front: Front) -> None:
    model = model_of(front.run("cluster.watch()"))
    beside = front.subshell()
    running = front.start("cluster.call('echo', 1)\nprint('began')\ninput()")
    front.wait_for("began", running)
    front.wait_for_state(model, "routes", "echo")  # the panel spoke meanwhile

    front.press(model, {"do": "kill", "node": "n2"}, beside)
    front.wait_for_state(model, "head", "n2 was killed")
    front.wait_for_state(model, "members", "dead")
    still_running = not ended(running)
    front.answer("")
    front.wait(running)

    assert still_running


def test_the_end_of_a_view_replaces_what_is_shown(front: Front) -> None:
    shown = front.run("view = cluster.watch('members')\nview")
    model = model_of(shown)
    displays = [m["content"] for m in shown.messages if m["msg_type"] == "display_data"]
    still, moving = [display["transient"]["display_id"] for display in displays]

    front.press(model, {"do": "kill", "node": "n2"})
    front.wait_for_state(model, "head", "n2 was killed")
    front.wait_for_state(model, "members", "dead")
    front.run("cluster.down()")
    left = front.run("print([t.name for t in threading.enumerate()])")

    last = {one["transient"]["display_id"]: one["data"] for one in front.updates}
    assert "ended, this is the last state" in last[still]["text/plain"]
    assert "dead" in last[still]["text/html"]
    assert last[moving] == {"text/plain": "", "text/html": ""}
    assert ("comm_close", model) in {(kind, comm) for kind, comm, _, _ in front.comms}
    assert "mpreg-live" not in left.stream()


def test_a_kernel_that_ends_leaves_the_last_state_and_says_nothing(
    leaks: Leaks, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
    with kernel() as started:
        front = Front(started)
        front.run(SETUP)
        front.run("cluster.watch()")
        capfd.readouterr()

    said = capfd.readouterr()

    assert "Traceback" not in said.err
    assert "Exception" not in said.err
