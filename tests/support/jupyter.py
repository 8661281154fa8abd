"""A real Jupyter server with its own folders, and a driver for its front ends."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Locator, Page, expect

PATIENCE_S = 60.0
"""Timeout for everything of the server; the machine may be busy."""

LOOK_S = 0.05
TAKES_MS = 2_000
"""Timeout until a cell shows that it was run."""

# No errands to other hosts: news, updates, a list of extensions.
CONFIG = {
    "LabApp": {
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "extension_manager": "readonly",
    },
    # A kernel that is killed cannot end its cluster; on a busy machine it takes time.
    "KernelManager": {"shutdown_wait_time": 30.0},
    "ServerApp": {
        "allow_root": True,
        "ip": "127.0.0.1",
        "open_browser": False,
        "port": 0,
        "jpserver_extensions": {
            "jupyterlab": True,
            "jupyter_lsp": False,
            "jupyter_server_terminals": False,
            "notebook": True,
        },
    },
}

# Neither are users asked whether they want news.
NOTIFICATIONS = ("@jupyterlab/apputils-extension", "notification.jupyterlab-settings")
SETTINGS = {"fetchNews": "false", "checkForUpdates": False}


@dataclass(frozen=True)
class Front:
    """A front end of the server: where a notebook opens, and how its cells look."""

    name: str
    path: str  # of a notebook's page, before its name
    query: str = ""


LAB = Front(name="lab", path="lab/tree/", query="&reset")
NOTEBOOK = Front(name="notebook", path="notebooks/")


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    token: str
    folder: Path  # of its notebooks

    def write(self, name: str, cells: Sequence[str]) -> Path:
        """Put a notebook of code cells into the folder."""
        notebook = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python"}},
            "cells": [
                {
                    "id": f"cell-{place}",
                    "cell_type": "code",
                    "source": source,
                    "metadata": {},
                    "execution_count": None,
                    "outputs": [],
                }
                for place, source in enumerate(cells)
            ],
        }
        path = self.folder / name
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return path

    def open(
        self, page: Page, path: Path, front: Front, *, kernel: bool = True
    ) -> None:
        """Open a notebook and wait until its kernel, if it gets one, is idle."""
        page.goto(
            f"{self.url}{front.path}{path.name}?token={self.token}{front.query}",
            wait_until="domcontentloaded",
        )
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        if kernel:
            self.wait_idle(page, path)

    def wait_idle(self, page: Page, path: Path) -> None:
        """Wait until the notebook has a kernel that runs nothing, and knows it."""
        page.wait_for_function(
            """async ([base, name]) => {
                const reply = await fetch(`${base}api/sessions`);
                const found = (await reply.json()).find((one) => one.path === name);
                return found?.kernel.execution_state === "idle";
            }""",
            arg=[self.url, path.name],
            polling=100,
        )
        # The front end shows idle before it knows the kernel; the button for the
        # debugger can be pressed once it does.
        page.locator(".jp-DebuggerBugButton:not(.disabled)").wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()

    def shut_down_kernels(self) -> None:
        """Shut the kernels down, as closing a notebook for good does."""
        for session in self.sessions():
            self._ask("DELETE", f"api/sessions/{session['id']}")

    def sessions(self) -> list[dict[str, Any]]:
        """Return the notebooks that have a kernel."""
        found: list[dict[str, Any]] = self._ask("GET", "api/sessions")
        return found

    def put_setting(self, plugin: str, values: Mapping[str, object]) -> None:
        """Change a setting of JupyterLab, for pages that are opened from now on."""
        raw = json.dumps({"raw": json.dumps(values)}).encode()
        self._ask("PUT", f"lab/api/settings/{plugin}", raw)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.url}{path}",
            method=method,
            data=body,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:  # noqa: S310
            text = reply.read()
        return json.loads(text) if text else None


def run_all(page: Page) -> None:
    """Choose "Run All Cells" from the menu, until the first cell was run.

    A front end that is not ready yet forgets the wish without a word.
    """
    first = cell(page, 0).locator(".jp-InputArea-prompt")
    deadline = time.monotonic() + PATIENCE_S
    while (first.text_content() or "").strip() == "[ ]:":
        assert time.monotonic() < deadline, "Run All Cells did nothing"
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        with suppress(AssertionError):
            expect(first).not_to_have_text("[ ]:", timeout=TAKES_MS)


def save(page: Page) -> None:
    """Choose "Save Notebook" from the menu."""
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_text("Save Notebook", exact=True).click()


def cell(page: Page, number: int) -> Locator:
    """The code cell of that number, counted from 0."""
    return page.locator(".jp-Notebook .jp-CodeCell").nth(number)


@contextmanager
def jupyter_server(folder: Path) -> Iterator[Server]:
    """Run a server whose files are all in `folder`, until the block ends."""
    places = {
        "HOME": "home",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "jupyter-runtime",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {
        variable: str(folder / name) for variable, name in places.items()
    }
    programs = Path(sys.executable).parent
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    notebooks = folder / "notebooks"
    for place in (*places.values(), notebooks.name):
        (folder / place).mkdir(mode=0o700)
    config = folder / "config" / "jupyter_lab_config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    settings = folder / "config" / "lab" / "user-settings" / NOTIFICATIONS[0]
    settings.mkdir(parents=True)
    (settings / NOTIFICATIONS[1]).write_text(json.dumps(SETTINGS), encoding="utf-8")
    token = secrets.token_hex(16)
    environment["JUPYTER_TOKEN"] = token
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "jupyter", "lab", f"--ServerApp.root_dir={notebooks}"],
            cwd=notebooks,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        url = _address(process, folder)
        yield Server(url=url, token=token, folder=notebooks)
    finally:
        _end(process)


def _address(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Wait until the server answers; return its address."""
    card = folder / "jupyter-runtime" / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if card.exists() and (text := card.read_text(encoding="utf-8")).endswith("}"):
            url: str = json.loads(text)["url"]
            return url
        time.sleep(LOOK_S)
    log = (folder / "server.log").read_text(encoding="utf-8")
    raise RuntimeError(f"the Jupyter server did not start:\n{log[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, with its kernels; insist if it does not."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for one in family for child in one.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S / 4)
    for one in alive:
        one.kill()
    process.wait(PATIENCE_S)
