"""A real browser: Debian's Chromium, controlled by Playwright.

Without either, the tests are skipped; where ``CI`` is set, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.cluster import Cluster
from tests.browser.relay import Ports, free_ports, running_relay
from tests.browser.watch import Watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def find_chromium() -> str:
    """Return Chromium's path; without it, skip the test, or fail it where ``CI`` is set."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        missing = "no 'chromium' on the PATH: apt install chromium"
    else:
        try:
            import playwright.sync_api  # noqa: F401
        except ImportError:
            missing = "the package playwright is not installed: pip install playwright"
        else:
            return executable
    reason = f"the status page cannot be tested in a browser: {missing}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    executable = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests and CI run as root, where Chromium's sandbox cannot be used.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
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
