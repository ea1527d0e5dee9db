"""Pages of a browser, and whatever went wrong in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

DEADLINE = 20_000
"""Milliseconds. A loaded machine draws the page within one second."""

NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
    window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});
window.shifts = 0;
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


class Watch:
    """Opens pages, and notes what they do that they should not.

    :ivar errors: exceptions, errors on the console, and violations of the policy.
    :ivar hosts: all that they have asked.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: list[Page] = []
        self.errors: list[str] = []
        self.hosts: set[str] = set()

    def open(self, url: str, **options: Any) -> Page:
        """Open a page in a context of its own, with Playwright's options for contexts."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(DEADLINE)
        page = context.new_page()
        page.add_init_script(NOTE_VIOLATIONS)
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
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.netloc)

    def forgive(self, part: str) -> None:
        """Accept the errors that contain *part*: the browser reports each failed request."""
        self.errors = [each for each in self.errors if part not in each]

    def close(self) -> None:
        """Close all pages; nothing may have gone wrong in them."""
        hosts = {urlsplit(each.url).netloc for each in self._pages}
        for page in self._pages:
            self.errors += page.evaluate("window.violations")
            page.context.close()
        assert self.errors == []
        assert self.hosts <= hosts
