"""The status page without a mouse."""

from __future__ import annotations

import re

from tests.browser.cluster import Cluster
from tests.browser.relay import Ports
from tests.browser.watch import Watch, expect

FOCUS = """() => {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    const isNew = !element.isReached && element !== document.body;
    element.isReached = true;
    return {
        isNew,
        name: element.getAttribute("aria-label") ?? element.textContent.trim(),
        isVisible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    };
}"""

MISSED = """() => [...document.querySelectorAll("a, button, input, select, [tabindex='0']")]
    .filter((each) => each.checkVisibility() && !each.isReached)
    .map((each) => each.outerHTML)"""

MOST = 80
"""Presses of Tab within which all of a small page is reached."""


def test_everything_is_reached_by_tab(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.join("keys_data", "keys-1", "keys-2", "keys-3")
    page = watch.open(f"{relay.page}#/databases/keys_data")
    expect(page.get_by_role("rowheader")).to_have_count(3)
    reached = []
    for _ in range(MOST):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if not focus["isNew"]:
            break
        assert focus["isVisible"], focus
        reached.append(focus["name"])
    assert reached[0] == "Skip to the content"
    assert page.evaluate(MISSED) == []


def test_the_content_is_reached_at_once(watch: Watch, relay: Ports) -> None:
    page = watch.open(relay.page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    expect(page).to_have_url(relay.page)


def test_shortcuts(watch: Watch, relay: Ports, cluster: Cluster) -> None:
    cluster.join("short_data", "short-1")
    page = watch.open(relay.page)
    heading = page.get_by_role("heading", level=1)
    for key, name in (("2", "Databases"), ("3", "Events"), ("1", "Overview")):
        page.keyboard.press(key)
        expect(heading).to_have_text(name)
        expect(heading).to_be_focused()
    page.keyboard.press("2")
    expect(heading).to_have_text("Databases")
    page.keyboard.press("/")
    filter_field = page.get_by_role("searchbox")
    expect(filter_field).to_be_focused()
    page.keyboard.type("short?1")
    expect(filter_field).to_have_value("short?1")
    expect(heading).to_have_text("Databases")
    filter_field.blur()

    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_contain_text(re.compile(r"2\s*Databases"))
    page.get_by_label("Single keys are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(heading).to_have_text("Databases")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("Single keys are shortcuts").check()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(heading).to_have_text("Overview")


def test_a_database_is_opened_sorted_and_its_peer_kicked(
    watch: Watch, relay: Ports, cluster: Cluster
) -> None:
    cluster.join("hands_data", "hands-1", "hands-2")
    page = watch.open(relay.page)
    page.keyboard.press("2")
    page.get_by_role("link", name="hands_data").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("rowheader")).to_have_count(2)
    page.get_by_role("button", name="Peer", exact=True).focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("columnheader", name="Peer")).to_have_attribute(
        "aria-sort", "ascending"
    )
    page.get_by_role("button", name="Kick hands-2").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("hands-2 is disconnected.")).to_be_visible()
    expect(page.get_by_role("rowheader")).to_have_text(["hands-1"])
