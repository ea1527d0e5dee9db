"""A real browser: Debian's Chromium, controlled by Playwright.

Without either, the tests are skipped; where ``CI`` is set, they fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.cluster import Cluster
from tests.browser.relay import Ports, free_ports, running_relay
from tests.browser.watch import Watch, find_chromium, launch

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    executable = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launch(playwright, executable)
        yield chromium
        chromium.close()


@pytest.fixture
def watch(browser: Browser) -> Iterator[Watch]:
    """Opens pages; at the end of the test none may have had an error."""
    watch = Watch(browser)
    yield watch
    watch.close()


@pytest.fixture(scope="module")
def relay() -> Iterator[Ports]:
    """A relay for the tests of one module."""
    ports = free_ports()
    with running_relay(ports):
        yield ports


@pytest.fixture(scope="module")
def cluster(relay: Ports) -> Iterator[Cluster]:
    """The peers of this relay."""
    with Cluster(relay.peers) as cluster:
        yield cluster
