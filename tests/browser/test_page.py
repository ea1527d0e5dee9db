"""The status page in a real browser, of a real relay with real peers."""

from __future__ import annotations

import re

import pytest

from tests.browser.cluster import Cluster
from tests.browser.relay import Ports
from tests.browser.watch import PHONE, Watch, expect
from tests.soak.link import Port, ask

LIVE = "Live"

FIGURE = "dl.figures div:has(dt:text-is('{}')) dd"


def test_the_overview_shows_figures_as_they_change(
    watch: Watch, relay: Ports, cluster: Cluster
) -> None:
    first, _ = cluster.join("overview_data", "overview-1", "overview-2")
    page = watch.open(relay.page)
    expect(page.get_by_role("status").filter(has_text=LIVE)).to_be_visible()
    expect(page.get_by_text("Serving")).to_be_visible()
    peers = page.locator(FIGURE.format("Peers"))
    before = int(peers.inner_text())
    cluster.join("overview_data", "overview-3")
    expect(peers).to_have_text(str(before + 1))
    expect(page.get_by_text(f"ws://127.0.0.1:{relay.peers}")).to_be_visible()

    sent = page.locator(".card:has-text('Traffic') dd")
    cluster.tell(first, *(["x" * 100] * 500))
    expect(sent.first).to_have_text(re.compile(r"^[1-9]\d*/s, \d.* KiB/s$"))
    expect(page.locator(".card:has-text('Traffic') path.line-0")).to_have_attribute(
        "d", re.compile(r"^M[\d. ]+L")
    )


def test_nothing_moves_when_figures_change(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    first, _ = cluster.join("moving_data", "moving-1", "moving-2")
    page = watch.open(relay.page)
    uptime = page.locator("dl.facts div:has(dt:text-is('Up for')) dd")
    expect(uptime).not_to_have_text("–")
    page.evaluate("window.shifts = 0")
    for _ in range(3):
        known = uptime.inner_text()
        cluster.tell(first, *(["x" * 1000] * 100))
        expect(uptime).not_to_have_text(known)
    assert page.evaluate("window.shifts") < 0.01


def test_views_have_addresses(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.join("views/data", "views-1")
    page = watch.open(relay.page)
    page.get_by_role("link", name="Databases").click()
    page.get_by_role("link", name="views/data").click()
    expect(page).to_have_url(re.compile("#/databases/views%2Fdata$"))
    expect(page).to_have_title("views/data · acebase-ipc")
    expect(page.get_by_role("rowheader", name="views-1")).to_be_visible()
    page.get_by_role("link", name="Requests").click()
    expect(page.get_by_text("The master has answered all requests.")).to_be_visible()
    page.go_back()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Databases")
    page.goto(f"{relay.page}#/databases/nobody_data")
    expect(page.get_by_text("This database is not open")).to_be_visible()
    watch.forgive("404")


def test_tables_sort_and_filter(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.join("sorted_data", "bravo", "alpha", "charlie")
    page = watch.open(f"{relay.page}#/databases/sorted_data")
    names = page.locator("tbody th")
    page.get_by_role("button", name="Peer", exact=True).click()
    expect(names).to_have_text(["alpha", "bravo", "charlie"])
    page.get_by_role("button", name="Peer", exact=True).click()
    expect(names).to_have_text(["charlie", "bravo", "alpha"])
    header = page.get_by_role("columnheader", name="Peer")
    expect(header).to_have_attribute("aria-sort", "descending")
    expect(header).to_have_attribute("scope", "col")
    expect(names.first).to_have_attribute("scope", "row")
    page.get_by_role("searchbox").fill("ALP 127.0.0.1")
    expect(names).to_have_text(["alpha"])
    page.get_by_role("searchbox").fill("nobody")
    expect(page.get_by_text("Nothing matches the filter.")).to_be_visible()


def test_who_waits_for_whom(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    holder, waiter, reader = cluster.work("locks_data", *(f"{i:024}" for i in range(3)))
    cluster.call(holder.ask, "accounts/<b>1", "transactNode")
    page = watch.open(f"{relay.page}#/databases/locks_data/locks")
    boxes = page.locator("svg.locks .holder")
    expect(boxes).to_have_count(1)
    expect(boxes).to_contain_text(holder.id)
    expect(boxes).to_contain_text("accounts/<b>1 · transactNode")
    expect(boxes).to_contain_text("write")
    assert page.locator("svg.locks .edge").count() == 0

    cluster.call(waiter.ask, "accounts/2", "update \r\x1b[31m")
    waiting = page.locator("svg.locks .waiter")
    expect(waiting).to_have_count(1)
    expect(waiting).to_contain_text(waiter.id)
    expect(waiting).to_contain_text("accounts/2 · update ␍␛[31m")
    expect(page.locator("svg.locks .edge")).to_have_count(1)
    cluster.call(reader.ask, "accounts/3", "query", None, False)
    expect(page.locator("svg.locks .edge")).to_have_count(2)
    picture = page.get_by_role("img")
    expect(picture).to_have_attribute(
        "aria-label",
        re.compile(rf"^{holder.id} holds a write lock at .* Waiting: {waiter.id}, {reader.id}\.$"),
    )
    expect(page.get_by_role("rowheader")).to_have_text([holder.id])
    page.get_by_role("link", name="Requests").click()
    expect(page.get_by_role("rowheader")).to_have_text([waiter.id, reader.id])
    page.go_back()

    cluster.call(holder.release)
    expect(boxes).to_contain_text(waiter.id)
    expect(waiting).to_have_count(1)
    expect(page.locator("svg.locks .edge")).to_have_count(1)


def test_large_messages(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.join("large_data", "sender", "reader-1", "reader-2")
    target = "/large_data/send?id=sender"
    posting = ask(Port(relay.peers), "POST", target, b"x" * 20_480, source="127.0.0.1")
    assert cluster.run(posting)[0] == 200
    page = watch.open(f"{relay.page}#/databases/large_data/large")
    row = page.locator("tbody tr:not(.space)")
    expect(row).to_contain_text("reader-1, reader-2")
    expect(row).to_contain_text("20.0 KiB")


def test_events_arrive_and_are_filtered(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    (first,) = cluster.join("events_data", "events-1")
    page = watch.open(f"{relay.page}#/events?database=events_data")
    events = page.locator("li.event")
    expect(events).to_have_count(1)
    expect(events).to_contain_text("events-1 joined")
    cluster.join("other_data", "events-2")
    cluster.call(first.cut)
    expect(page.get_by_text("events-1 left")).to_be_visible()
    assert page.get_by_text("events-2").count() == 0
    page.get_by_label("Kind").select_option("PeerJoined")
    expect(events).to_have_count(1)
    expect(page).to_have_url(re.compile(r"kind=PeerJoined&database=events_data$"))
    page.get_by_role("button", name="Pause").click()
    cluster.join("events_data", "events-3")
    expect(page.get_by_text(re.compile(r"Paused, [1-9]\d* new"))).to_be_visible()
    expect(events).to_have_count(1)
    page.get_by_role("button", name="Pause").click()
    expect(events).to_have_count(2)
    page.reload()
    expect(events).to_have_count(2)


def test_a_peer_is_disconnected_after_a_confirmation(
    watch: Watch, relay: Ports, cluster: Cluster
) -> None:
    first, second = cluster.join("kick_data", "stays", "leaves")
    page = watch.open(f"{relay.page}#/databases/kick_data")
    page.get_by_role("button", name="Kick leaves").click()
    dialog = page.get_by_role("dialog", name="Disconnect this peer?")
    expect(dialog).to_contain_text("leaves of kick_data")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Kick leaves")).to_be_focused()
    assert first.alive
    assert second.alive

    page.get_by_role("button", name="Kick leaves").click()
    dialog.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("leaves is disconnected.")).to_be_visible()
    cluster.run(_ended(second.ended))
    assert first.alive


async def _ended(event: object) -> None:
    await event.wait()  # type: ignore[attr-defined]


def test_texts_of_others_are_only_text(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    database = "<script>alert(1)</script> \u202edrowssap\u2066"
    peers = (
        "<img src=x onerror=alert(1)>",
        "</td><td>&amp",
        "right\u202eto left",
        "שלום עולם",
        "zero\u200bwidth\ufeff",
    )
    cluster.join(database, *peers)
    page = watch.open(f"{relay.page}#/databases")
    page.get_by_role("link", name="<script>alert(1)</script>").click()
    shown = "<script>alert(1)</script> ⟨U+202E⟩drowssap⟨U+2066⟩"
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Databases / {shown}")
    page.get_by_role("button", name="Peer", exact=True).click()
    expect(page.locator("tbody th")).to_have_text(
        [
            "</td><td>&amp",
            "<img src=x onerror=alert(1)>",
            "right⟨U+202E⟩to left",
            "zero⟨U+200B⟩width⟨U+FEFF⟩",
            "שלום עולם",
        ]
    )
    page.get_by_role("button", name="Kick <img").click()
    expect(page.get_by_role("dialog")).to_contain_text("<img src=x onerror=alert(1)>")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Its events").click()
    expect(page.locator("li.event")).to_have_count(len(peers))
    assert page.locator("main img, main script, dialog img").count() == 0


VIEWS = ("", "#/databases", "#/databases/{}", "#/databases/{}/locks", "#/events")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(watch: Watch, relay: Ports, cluster: Cluster, scheme: str) -> None:
    database = f"{scheme}_data"
    holder, waiter = cluster.work(database, *(f"{i:024}" for i in (7, 8)))
    cluster.call(holder.ask, "a/b", "transactNode")
    cluster.call(waiter.ask, "a/b", "transactNode")
    page = watch.open(relay.page, viewport=PHONE, color_scheme=scheme)
    for view in VIEWS:
        page.goto(relay.page + view.format(database))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("status").filter(has_text=LIVE)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], view
    page.goto(f"{relay.page}#/databases/{database}/locks")
    expect(page.locator("svg.locks .waiter")).to_be_visible()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 127")
    assert light == (scheme == "light")
    assert page.evaluate(CONTRAST) >= 4.5


CONTRAST = """() => {
    const luminance = (color) => {
        const parts = color.match(/[\\d.]+/g).slice(0, 3).map((each) => {
            const part = each / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const color = getComputedStyle(element).backgroundColor;
            if (!/, 0\\)$/.test(color) && !/rgba/.test(color)) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let least = 21;
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const isShown = element.checkVisibility() && !element.closest("svg, .skip, .toast");
        if (!isShown || !walker.currentNode.data.trim()) continue;
        const values = [getComputedStyle(element).color, behind(element)].map(luminance);
        values.sort((a, b) => a - b);
        least = Math.min(least, (values[1] + 0.05) / (values[0] + 0.05));
    }
    return least;
}"""
"""The lowest contrast of a text that is shown to what is behind it (WCAG 2.2: at least 4.5)."""
