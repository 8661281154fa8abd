"""A browser for each module, a page for each test, and an ear for what goes wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.ear import Ear
from tests.browser.site import panel_site
from tests.conftest import CHROMIUM

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000
"""How long a page is waited for; the machine may be busy with other tests."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=ARGUMENTS
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def ear(context: BrowserContext) -> Iterator[Ear]:
    """Fail the test if a page complained, or asked another host for anything."""
    ear = Ear(context)
    yield ear
    assert ear.complaints == []
    assert ear.foreign == []


@pytest.fixture
def page(context: BrowserContext, ear: Ear) -> Page:
    return context.new_page()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with panel_site() as address:
        yield address


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A folder for a server's own files, short enough for the path of a socket."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder
