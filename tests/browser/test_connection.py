"""The status page when the relay is away, and where it asks for a token."""

from __future__ import annotations

from pathlib import Path

from tests.browser.cluster import Cluster
from tests.browser.relay import free_ports, running_relay
from tests.browser.watch import Watch, expect

PEERS = "dl.figures div:has(dt:text-is('Peers')) dd"
RECEIVED = "dl.facts div:has(dt:text-is('In')) dd"


def test_a_lost_connection_is_told_and_made_again(watch: Watch) -> None:
    ports = free_ports()
    with running_relay(ports), Cluster(ports.peers) as cluster:
        (first,) = cluster.join("before_data", "before-1")
        cluster.tell(first, *["x"] * 10)
        page = watch.open(ports.page)
        connection = page.locator("#connection")
        expect(connection).to_have_text("Live")
        expect(page.locator(PEERS)).to_have_text("1")
        page.get_by_role("link", name="Events").click()
        expect(page.get_by_text("before-1 joined")).to_be_visible()

    banner = page.get_by_role("alert")
    expect(connection).to_have_text("Connection lost")
    expect(banner).to_contain_text("The figures are those of")
    # Once it is refused, what is shown stays.
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_text("before-1 joined")).to_be_visible()

    with running_relay(ports), Cluster(ports.peers) as cluster:
        cluster.join("after_data", "after-1", "after-2")
        expect(connection).to_have_text("Live")
        expect(banner).to_have_count(0)
        expect(page.get_by_text("after-2 joined")).to_be_visible()
        expect(page.get_by_text("before-1 joined")).to_have_count(0)
        page.get_by_role("link", name="Overview").click()
        expect(page.locator(PEERS)).to_have_text("2")
        # The stream goes on with the new relay.
        cluster.join("after_data", "after-3")
        expect(page.locator(PEERS)).to_have_text("3")
    watch.forgive("net::ERR_")


def test_a_database_comes_back_with_the_relay(watch: Watch) -> None:
    ports = free_ports()
    with running_relay(ports), Cluster(ports.peers) as cluster:
        cluster.join("same_data", "same-1")
        page = watch.open(f"{ports.page}#/databases/same_data")
        expect(page.get_by_role("rowheader")).to_have_text(["same-1"])
    expect(page.locator("#connection")).to_have_text("Connection lost")
    with running_relay(ports), Cluster(ports.peers) as cluster:
        cluster.join("same_data", "same-2")
        expect(page.get_by_role("rowheader")).to_have_text(["same-2"])
    watch.forgive("net::ERR_", "404")


def test_the_token_is_asked_for_once(watch: Watch, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("correct+horse==\n")
    ports = free_ports()
    with running_relay(ports, "--admin-token-file", str(tokens)):
        page = watch.open(ports.page)
        dialog = page.get_by_role("dialog", name="This page is protected")
        field = page.get_by_label("Token of the admin endpoint")
        expect(field).to_be_focused()
        assert page.get_by_text("not accepted").count() == 0
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("This token is not accepted.")).to_be_visible()
        page.keyboard.press("Escape")
        expect(field).to_be_visible()
        field.fill("correct+horse==")
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(dialog).to_have_count(0)
        page.reload()
        expect(page.locator("#connection")).to_have_text("Live")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    watch.forgive("401", "net::ERR_")
