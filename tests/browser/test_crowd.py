"""The status page with 2,000 peers in one database, and with many databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.cluster import Cluster
from tests.browser.relay import Ports, free_ports, running_relay
from tests.browser.watch import Watch, expect

CROWD = 2000

MOST_ROWS = 100
"""Rows in the document, and rows that a step of scrolling makes, whatever the number of peers."""

DATABASES = 250
"""More than the stream tells of."""

SCROLL = """async (box) => {
    let most = 0;
    for (let top = 0; top < box.scrollHeight; top += 2000) {
        let made = 0;
        const observer = new MutationObserver((changes) => {
            for (const change of changes) {
                made += change.addedNodes.length;
            }
        });
        observer.observe(box.querySelector("tbody"), {childList: true, subtree: true});
        box.scrollTop = top;
        await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
        observer.disconnect();
        most = Math.max(most, made);
    }
    return most;
}"""
"""Scrolls to the end; returns the largest number of rows that one step made."""


@pytest.fixture(scope="module")
def relay() -> Iterator[Ports]:
    """A relay that expects no sign of life from peers that read nothing."""
    ports = free_ports()
    with running_relay(ports, "--keepalive-interval", "3600"):
        yield ports


def test_2000_peers(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.crowd([("crowd_data", f"peer-{i:04}") for i in range(CROWD)])
    page = watch.open(relay.page)
    page.goto(f"{relay.page}#/databases/crowd_data")
    rows = page.locator("tbody tr:not(.space)")
    expect(rows.first).to_be_visible()
    page.get_by_role("button", name="Peer", exact=True).click()
    expect(page.get_by_role("rowheader").first).to_have_text("peer-0000")
    assert rows.count() <= MOST_ROWS
    expect(page.get_by_role("table")).to_have_attribute("aria-rowcount", str(CROWD + 1))

    assert 0 < page.locator(".table-box").evaluate(SCROLL) <= MOST_ROWS
    expect(page.get_by_role("rowheader").last).to_have_text(f"peer-{CROWD - 1:04}")
    expect(rows.last).to_have_attribute("aria-rowindex", str(CROWD + 1))
    assert rows.count() <= MOST_ROWS

    page.get_by_role("searchbox").fill("peer-1234")
    expect(page.get_by_role("rowheader")).to_have_text(["peer-1234"])
    expect(page.get_by_text("1 shown")).to_be_visible()

    # Tab goes on to rows that were not in the document.
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Kick peer-0000").focus()
    for _ in range(MOST_ROWS):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=f"Kick peer-{MOST_ROWS:04}")).to_be_focused()


def test_many_databases(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.crowd([(f"many-{i:03}", "alone") for i in range(DATABASES)])
    page = watch.open(f"{relay.page}#/databases")
    page.get_by_role("searchbox").fill("many-")
    expect(page.get_by_text(f"{DATABASES} shown")).to_be_visible()
