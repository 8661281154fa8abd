import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mpreg_nb.launcher.child import PACKAGE_ROOT, node_command, node_environment
from tests.support.leaks import nothing_left
from tests.support.node_processes import SOON_S, Start

pytestmark = pytest.mark.live


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with nothing_left(tmp_path), Start(tmp_path) as start:
        yield start


def test_a_token_travels_in_the_environment_only(start: Start) -> None:
    node = start(token="s3cret-token")
    node.wait_ready(SOON_S)
    process = psutil.Process(node.pid)

    assert process.environ()["MPREG_NB_TOKEN"] == "s3cret-token"
    assert "s3cret-token" not in " ".join(process.cmdline())


def test_a_node_leads_its_own_session_in_the_folder_of_its_log(start: Start) -> None:
    node = start()
    node.wait_ready(SOON_S)

    assert os.getsid(node.pid) == os.getpgid(node.pid) == node.pid
    assert psutil.Process(node.pid).cwd() == str(start.folder)


def test_a_node_inherits_no_open_file(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)

        node = start()

    node.wait_ready(SOON_S)
    held = [opened.path for opened in psutil.Process(node.pid).open_files()]
    assert str(tmp_path / "secret") not in held


def test_a_node_gets_the_socket_that_listens_for_it(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()

        node = start(listening=listening)

    node.wait_ready(SOON_S)
    assert [held.laddr for held in psutil.Process(node.pid).net_connections()] == [
        address
    ]


def test_a_node_imports_what_the_notebook_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, here = tmp_path / "added", tmp_path / "here"
    for folder in (added, here):
        folder.mkdir()
    (added / "added_module.py").touch()
    (here / "json.py").write_text("raise ImportError('hidden')")
    monkeypatch.syspath_prepend(str(added))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.chdir(here)

    path = node_environment()["PYTHONPATH"].split(os.pathsep)
    subprocess.run(
        [*node_command()[:-2], "-c", "import json, added_module, mpreg_nb"],
        env=node_environment(),
        cwd=here,
        check=True,
    )

    assert path[0] == PACKAGE_ROOT
    assert str(added) in path
    assert str(here) not in path


def test_drawing_into_the_notebook_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")

    assert node_environment()["MPLBACKEND"] == "agg"
