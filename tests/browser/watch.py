"""Pages of a browser, and whatever went wrong in them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlsplit

from tests.programs import missing, program

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        ConsoleMessage,
        Locator,
        Page,
        Playwright,
        Request,
    )
    from playwright.sync_api._generated import LocatorAssertions, PageAssertions

DEADLINE = 20_000
"""Milliseconds. A loaded machine draws the page within one second."""

LAPTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}

NOTES = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
    window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
window.shifts = 0;
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
"""Notes violations of the policy, and how far parts of the page have moved by themselves."""


def find_chromium() -> str:
    """Return Chromium's path; without it, skip the test, or fail it where ``CI`` is set."""
    executable = program("chromium", "chromium-browser")
    if find_spec("playwright") is None:
        missing("the package playwright is not installed: pip install playwright")
    return executable


def launch(playwright: Playwright, executable: str) -> Browser:
    """Start a headless Chromium."""
    # Tests and CI run as root, for which Chromium has no sandbox.
    return playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])


@overload
def expect(what: Locator) -> LocatorAssertions: ...
@overload
def expect(what: Page) -> PageAssertions: ...
def expect(what: Locator | Page) -> LocatorAssertions | PageAssertions:
    """Return Playwright's assertions, which wait until they hold."""
    from playwright.sync_api import expect as assertions

    assertions.set_options(timeout=DEADLINE)
    return assertions(what)


class Watch:
    """Opens pages, and notes what they do that they should not.

    :ivar errors: exceptions, errors on the console, and violations of the policy.
    :ivar hosts: all that they have asked.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: list[Page] = []
        self._forgiven: tuple[str, ...] = ()
        self.errors: list[str] = []
        self.hosts: set[str] = set()

    def open(self, url: str, **options: Any) -> Page:
        """Open a page in a context of its own, with Playwright's options for contexts."""
        context = self._browser.new_context(**{"viewport": LAPTOP, **options})
        context.set_default_timeout(DEADLINE)
        page = context.new_page()
        page.add_init_script(NOTES)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("request", self._request)
        self._pages.append(page)
        page.goto(url)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme != "data":
            self.hosts.add(parts.netloc)

    def forgive(self, *parts: str) -> None:
        """Accept errors that contain one of *parts*: the browser tells of failed requests."""
        self._forgiven += parts

    def close(self) -> None:
        """Close all pages; nothing may have gone wrong in them."""
        hosts = {urlsplit(each.url).netloc for each in self._pages}
        for page in self._pages:
            self.errors += page.evaluate("window.violations")
            page.context.close()
        errors = [each for each in self.errors if not any(part in each for part in self._forgiven)]
        assert errors == [], errors
        assert self.hosts <= hosts, self.hosts
