"""``ping`` through a real relay."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from acebase_ipc.cli.ping import RoundTrips, summarize
from tests.certificates import make_certificate
from tests.cli.cluster import Served
from tests.cli.conftest import ClientCommand, finish, start
from tests.cli.servers import closed_port, saying
from tests.integration.relay_process import on_loopback, running_relay


@pytest_twisted.ensureDeferred
async def test_sizes_above_and_below_max_payload(
    client_command: ClientCommand, relay: Served
) -> None:
    sizes = ("--size", "10", "--size", "64KiB")
    measured = (await client_command("ping", relay.url, "--count", "3", *sizes, "--json")).json[
        "round_trips"
    ]

    assert [(each["size"], each["count"]) for each in measured] == [(10, 3), (65536, 3)]
    for each in measured:
        assert 0 < each["minimum"] <= each["median"] <= each["p99"] <= each["maximum"] < 10


def test_in_a_process_of_its_own(relay: Served) -> None:
    ended = finish(start("ping", relay.url, "--count", "2"))

    assert (ended.status, ended.errors) == (0, "")
    assert ended.lines[0].split() == ["SIZE", "COUNT", "MIN", "P50", "P99", "MAX"]
    assert ended.lines[1].split()[:3] == ["200", "B", "2"]


def test_the_summary() -> None:
    seconds = [each / 1000 for each in range(200, 0, -1)]

    assert summarize(7, seconds) == RoundTrips(7, 200, 0.001, 0.1, 0.198, 0.2)
    assert summarize(7, [0.3, 0.2, 0.1]) == RoundTrips(7, 3, 0.1, 0.2, 0.3, 0.3)
    assert summarize(7, [0.5]) == RoundTrips(7, 1, 0.5, 0.5, 0.5, 0.5)


@pytest_twisted.ensureDeferred
async def test_tls_and_a_token(client_command: ClientCommand, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text("right\n")
    options = ("--token-file", str(tokens))
    with running_relay(on_loopback("ssl", privateKey=certificate.pem), options=options) as relay:
        url = f"wss://localhost:{relay.address.port}"
        ca = ("--ca", str(certificate.root), "--count", "1")
        done = await client_command("ping", url, *ca, *options)
        from_variable = await client_command(
            "ping", url, *ca, environment={"ACEBASE_IPC_TOKEN": "right"}
        )
        without = await client_command("ping", url, *ca)
        untrusted = await client_command("ping", url, *options)

    assert done.status == from_variable.status == 0
    assert without.status == 1
    assert "check the token" in without.error
    assert untrusted.status == 3
    assert "TLS failed" in untrusted.error


@pytest_twisted.ensureDeferred
async def test_a_relay_that_is_not_there(client_command: ClientCommand) -> None:
    shown = await client_command("ping", f"ws://127.0.0.1:{closed_port()}")

    assert shown.status == 3
    assert "cannot connect to the relay" in shown.error


@pytest_twisted.ensureDeferred
async def test_what_is_no_relay(client_command: ClientCommand) -> None:
    with saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port:
        shown = await client_command("ping", f"ws://127.0.0.1:{port}")

    assert shown.status == 3
    assert "this is no relay" in shown.error


@pytest.mark.parametrize("url", ["http://localhost", "ws://localhost?t=secret"])
@pytest_twisted.ensureDeferred
async def test_an_url_that_cannot_be_used(client_command: ClientCommand, url: str) -> None:
    shown = await client_command("ping", url)

    assert shown.status == 1
    assert "secret" not in shown.error
    assert "URL" in shown.error
