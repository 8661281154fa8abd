"""A browser for each module, a page for each test, and an ear for what goes wrong."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.browser import chromium
from tests.support.page_errors import Ear
from tests.support.panel_site import panel_site

PATIENCE_MS = 30_000
"""How long a page is waited for; the machine may be busy with other tests."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
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
