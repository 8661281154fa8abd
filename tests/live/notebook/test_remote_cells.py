"""What a cell that runs elsewhere shows and does, in a real kernel."""

from collections.abc import Iterator

import pytest

from tests.support.kernel import Cell, Kernel, kernel
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

SETUP = """
%load_ext mpreg_nb
%mpreg up n1 n2 --workers 1
import mpreg_nb as mp
from IPython.display import HTML, display

def show(html):
    display(HTML(html))
    print("shown")
    return len(html)

def nested(html):
    import mpreg_nb as mp
    return mp.call(show, html)

async def awaited(html):
    return show(html)

mp.register(show, name="in a thread", isolation="thread")
mp.register(awaited, isolation="thread")
"""


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left over is looked for once, when the kernel of all tests has ended."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPREG_NB_PLAIN", "0")
        with nothing_left(tmp_path_factory.mktemp("remote")), kernel() as made:
            made.set_up(SETUP)
            yield made


def seen(cell: Cell, kind: str = "text/html") -> list[str]:
    """What a reader sees, in its order: texts, and displays that have this form."""
    found: list[str] = []
    for message in cell.messages:
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                found += content["text"].splitlines()
            case "display_data" | "update_display_data" | "execute_result":
                text = content["data"].get(kind)
                if text is not None and "running" not in text and " · " not in text:
                    found.append(text)
            case "clear_output":
                found.append(f"clear, wait={content['wait']}")
            case "error":
                found.append(f"{content['ename']}: {content['evalue']}")
    return found


def test_displays_of_a_remote_cell_come_in_all_their_forms_and_in_order(
    front: Kernel,
) -> None:
    cell = front.run(
        "%%mpreg remote --node n1\n"
        "from IPython.display import HTML, Markdown, clear_output\n"
        "print('one')\n"
        "display(HTML('<b>two</b>'), metadata={'a': 1})\n"
        "handle = display(HTML('three'), display_id=True)\n"
        "handle.update(HTML('four'))\n"
        "clear_output(wait=True)\n"
        "display('five', Markdown('six'))\n"
        "HTML('seven')"
    )

    assert seen(cell) == [
        *("[n1] one", "<b>two</b>", "three", "four", "clear, wait=True"),
        *("[n1] 'five'", "seven"),
    ]
    assert seen(cell, "text/markdown")[-1] == "six"
    three, four = (
        m["content"]["transient"]["display_id"]
        for m in cell.messages
        if m["content"].get("data", {}).get("text/html") in ("three", "four")
    )
    assert three == four


def test_figures_of_remote_cells_are_shown_as_in_a_notebook(front: Kernel) -> None:
    cell = front.run(
        "%%mpreg everywhere\n"
        "import matplotlib.pyplot as plt\n"
        "plt.plot([1, 2])\nplt.show()\nprint('between')\nplt.plot([2, 1]);"
    )

    images = [data for data in cell.data() if "image/png" in data]
    assert len(images) == 4
    for node in ("n1", "n2"):
        assert f"[{node}] between" in cell.stream()


@pytest.mark.parametrize(
    "source",
    [
        "mp.call(show, '<p>')",
        "mp.submit(show, '<p>').result()",
        "await mp.submit(show, '<p>')",
        "mp.map(show, ['<p>'])[0]",
        "mp.call(nested, '<p>')",
        "mp.call('in a thread', '<p>')",
        "mp.call('awaited', '<p>')",
        "flow = mp.workflow('shows'); flow.step('s', show, '<p>'); flow.run(); None",
    ],
)
def test_displays_of_functions_come_to_the_cell_that_calls_them(
    front: Kernel, source: str
) -> None:
    cell = front.run(source)

    texts = seen(cell)
    assert [text.rpartition("] ")[2] for text in texts[1:3]] == ["<p>", "shown"]
    assert texts[0].startswith("[n")


def test_a_large_display_of_a_background_run_comes_to_the_cell_that_began_it(
    front: Kernel,
) -> None:
    begun = front.run(
        "flow = mp.workflow('late')\n"
        "flow.step('s', show, '<p>' * 1_000_000)\n"
        "run = flow.start()"
    )
    waited = front.run("run.wait(); None")
    front.wait_for("shown", begun)

    assert [len(text) for text in seen(begun)] == [4, 3_000_000, len("[n1] shown")]
    assert "<p>" not in "".join(seen(waited))


def test_a_captured_cell_captures_displays(front: Kernel) -> None:
    front.run("%%capture caught\nmp.call(show, '<p>')")

    cell = front.run("caught.outputs[0].data['text/html'], len(caught.outputs)")
    assert cell.data()[-1]["text/plain"] == "('<p>', 2)"


def test_a_flood_of_displays_is_cut_and_costs_no_node(front: Kernel) -> None:
    cell = front.run(
        "%%mpreg remote\n"
        "for n in range(3000):\n"
        "    display({'text/html': f'{n} ' + 'x' * 30_000}, raw=True)"
    )

    shown = [text for text in seen(cell) if text.endswith("xxx")]
    told = cell.stream().splitlines()[-1]
    cut = int(told.split(" more")[0].rpartition("… ")[2].replace(",", ""))
    assert len(shown) + cut == 3000
    assert len(shown) == 1000
    assert "error" not in cell.kinds()


def test_commands_of_a_remote_cell_run_on_its_node(front: Kernel) -> None:
    cell = front.run(
        "word = 'there'\n"
        "get_ipython().run_cell_magic('mpreg', 'everywhere -o found', "
        "'names = !echo $word; pwd\\n!echo {len(names)}\\n%time names[0]')\n"
        "found"
    )
    value = front.run("[names == 'there' for names in found.values()]")

    assert {"[n1] 2", "[n2] 2"} < set(seen(cell))
    assert value.data()[-1]["text/plain"] == "[True, True]"


def test_a_step_cell_has_commands_too(front: Kernel) -> None:
    front.run("%%mpreg step words --flow shell\nwords = !printf 'a\\nb'")
    front.run("%%mpreg step count --flow shell\n%time count = len(words)")

    cell = front.run("run = shell.run(); run['count']")

    assert cell.data()[-1]["text/plain"] == "2"


def test_stop_ends_a_command_with_all_that_it_started(front: Kernel) -> None:
    cell = front.start("%%mpreg remote --node n1\n!echo begun; sleep 4321; echo never")
    front.wait_for("begun", cell)
    front.interrupt()
    front.wait(cell)

    # Its one worker begins the next cell when it has ended this one.
    left = front.run("%%mpreg remote --node n1\n!ps -eo args | grep -c '[s]leep 4321'")
    assert cell.error()[0] == "KeyboardInterrupt"
    assert left.stream() == "[n1] 0\n"


def value(cell: Cell) -> str:
    """The value of a cell; what it says instead, if it has none."""
    found = [m for m in cell.messages if m["msg_type"] == "execute_result"]
    assert found, seen(cell)
    text: str = found[0]["content"]["data"]["text/plain"]
    return text


def test_kept_cells_share_their_names_in_one_process_of_one_node(
    front: Kernel,
) -> None:
    front.run("rate = 1")
    begun = front.run(
        "%%mpreg remote --keep work --node n2\n"
        "import os\nmade = [rate]\nfirst = os.getpid()\n%cd /\n%env LAB_KEPT=1"
    )
    front.run("rate = 2")
    front.run(
        "%%mpreg remote --keep work -o seen_there\n(made, rate, os.getpid() == first)"
    )
    there = front.run("%%mpreg remote --keep work\nos.getcwd(), os.environ['LAB_KEPT']")
    elsewhere = front.run("%%mpreg remote --keep work --node n1\n1")
    listed = front.run("%mpreg kept")

    assert "[n2] keeps 'work' from now on" in begun.stream()
    assert value(front.run("seen_there")) == "([1], 2, True)"
    assert value(there) == "('/', '1')"
    assert "'work' is kept on n2, so the cell cannot run on n1" in elsewhere.stream(
        "stderr"
    )
    assert value(listed) == "work on n2: os, made, first"


def test_what_is_kept_takes_no_slot_and_its_cells_may_call_their_own_node(
    front: Kernel,
) -> None:
    front.run("%%mpreg remote --keep other --node n1\nlength = 3")

    beside = front.run("mp.on(node='n1').call(len, 'abcd')")
    nested = front.run(
        "%%mpreg remote --keep other\n"
        "import mpreg_nb as mp\nmp.on(node='n1').call(len, 'x' * length)"
    )

    assert (value(beside), value(nested)) == ("4", "3")


def test_names_are_kept_when_a_cell_fails_or_is_stopped(front: Kernel) -> None:
    front.run("%%mpreg remote --keep firm\nn = 1")
    failed = front.run("%%mpreg remote --keep firm\nn = 2\n1 / 0")
    stopped = front.start(
        "%%mpreg remote --keep firm\nimport time\nprint('begun')\ntime.sleep(1000)"
    )
    front.wait_for("begun", stopped)
    front.interrupt()
    front.wait(stopped)

    assert failed.error()[0] == "ZeroDivisionError"
    assert stopped.error()[0] == "KeyboardInterrupt"
    assert value(front.run("%%mpreg remote --keep firm\nn")) == "2"


def test_the_loss_of_kept_variables_is_reported_and_the_next_cell_starts_afresh(
    front: Kernel,
) -> None:
    front.run("%%mpreg remote --keep frail -o pid\nimport os\nn = 1\nos.getpid()")
    front.run(
        "import psutil\nprocess = psutil.Process(pid)\n"
        "process.kill()\nprocess.wait(30)\nmp.current().nodes()"
    )

    # Its node hears of the end a moment later; then the cell is told how it ended.
    lost = front.run("%%mpreg remote --keep frail\nn")
    told = lost.stream("stderr") or lost.error()[1]
    anew = front.run("%%mpreg remote --keep frail\n'n' in dir()")
    crashed = front.run("%%mpreg remote --keep frail\nimport os\nos._exit(3)")

    assert "is lost" in told
    assert "signal SIGKILL" in told
    assert "with --keep frail: they start again" in told.replace("\n", " ")
    assert value(anew) == "False"
    name, text = crashed.error()
    assert name == "WorkerCrashed"
    assert "exit code 3" in text
    assert "What was kept as 'frail' is lost with it" in text
    assert "started a new worker" not in text
    assert "frail" not in value(front.run("%mpreg kept"))


def test_what_is_forgotten_ends_with_its_process(front: Kernel) -> None:
    front.run("%%mpreg remote --keep brief -o pid\nimport os\nn = 1\nos.getpid()")

    unknown = front.run("%mpreg forget brif")
    front.run("%mpreg forget brief")
    front.set_up(
        "import psutil\nif psutil.pid_exists(pid): psutil.Process(pid).wait(30)"
    )

    assert "Did you mean 'brief'?" in unknown.stream("stderr")
    again = front.run("%%mpreg remote --keep brief\n'n' in dir()")
    assert value(again) == "False"


@pytest.mark.parametrize("keep", ["", " --keep nowhere"])
def test_a_node_that_is_none_is_refused_with_the_one_that_was_meant(
    front: Kernel, keep: str
) -> None:
    refused = front.run(f"%%mpreg remote --node n22{keep}\n1")

    assert "no live node is named 'n22'" in refused.stream("stderr")
    assert "Did you mean 'n2'?" in refused.stream("stderr")
