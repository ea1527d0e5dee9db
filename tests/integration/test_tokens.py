"""Tokens: who is admitted, and what the log says about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from acebase_ipc.testing import client_frame
from tests.integration.peers import Peers, Refused
from tests.integration.raw import RawClient, post_head
from tests.integration.relay_process import RelayProcess, running_relay
from tests.integration.web import Answer, Web

TOKEN = "c2VjcmV0/+token=="
BODY = "the-body-that-nobody-else-may-read"

UNAUTHORIZED = Answer(401, "Unauthorized")


@pytest.fixture(scope="module", params=["--token", "--token-file", "ACEBASE_IPC_TOKEN"])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayProcess]:
    """A relay that wants :data:`TOKEN`, told to it in each of the three ways."""
    options: tuple[str, ...] = ()
    environment = {}
    match request.param:
        case "--token":
            options = ("--token", TOKEN)
            environment = {"ACEBASE_IPC_TOKEN": "an option is stronger"}
        case "--token-file":
            path: Path = tmp_path_factory.mktemp("token") / "token.txt"
            path.write_text(f"{TOKEN}  \nanother one\nmuseum yet-another\n")
            options = (f"--token-file={path}",)
            environment = {"ACEBASE_IPC_TOKEN": "an option is stronger"}
        case variable:
            environment = {variable: TOKEN}
    with running_relay(options=options, environment=environment) as relay:
        assert "token required" in relay.log
        yield relay


@pytest_twisted.ensureDeferred
async def test_the_right_token_opens_every_path(guarded: RelayProcess, peers: Peers) -> None:
    first = await peers.join(guarded.address, "first", t=TOKEN)
    raw = f"/library/connect?id=second&v=1.0.0&t={TOKEN}"
    second = await peers.connect_to(guarded.address, raw, "second")
    web = Web(guarded.address)

    assert await first.next() == "connect:second"
    assert (await web.post("/library/send", BODY, id="first", t=TOKEN)).status == 200
    assert await second.received() == ['welcome:{"maxPayload":16384}', f"msg:{BODY}"]
    assert (await web.get("/library/clients", t=TOKEN)).status == 200
    assert (await web.get("/library/clients", bearer=TOKEN)).status == 200


# No more than these: from the eleventh wrong token on the answers are two seconds late.
@pytest.mark.parametrize("query", [{}, {"t": TOKEN[:-1]}])
@pytest_twisted.ensureDeferred
async def test_a_wrong_token_opens_no_path(
    guarded: RelayProcess, peers: Peers, query: dict[str, str]
) -> None:
    peer = await peers.join(guarded.address, "inside", t=TOKEN)
    web = Web(guarded.address)

    with pytest.raises(Refused, match=r"\b403\b"):
        await peers.connect(guarded.address, "outside", **query)
    assert await web.get("/library/clients", **query) == UNAUTHORIZED
    assert await web.post("/library/send", BODY, id="inside", **query) == UNAUTHORIZED
    assert await web.get("/library/receive", id="inside", msg="x", **query) == UNAUTHORIZED
    assert await peer.received() == []


@pytest_twisted.ensureDeferred
async def test_no_token_no_url_and_no_body_is_logged(guarded: RelayProcess, peers: Peers) -> None:
    """Whatever clients do right or wrong; the module's other tests have logged as well."""
    address, query = guarded.address, f"id=first&v=1.0.0&t={TOKEN}"
    first = await peers.join(address, "first", t=TOKEN)
    second = await peers.join(address, "second", t=TOKEN)
    web = Web(address)
    await web.post("/library/send", f"to:second;{BODY * 1000}", id="first", t=TOKEN)
    await web.post("/library/send", f"to:{BODY}", id="first", t=TOKEN)
    await web.post("/library/send", f"to:nobody;{BODY}", id="first", t=TOKEN)
    assert (await second.next()).startswith("get:")
    first.tell(BODY)
    assert await second.next() == f"msg:{BODY}"
    first.connection.sendMessage(BODY.encode(), isBinary=True)
    first.tell(f"to:{BODY}")  # closes it with 1008
    assert (await first.closed()).code == 1008
    second.tell(BODY * 1000)  # closes it with 1009
    assert (await second.closed()).code == 1009
    requests = [
        f"GET /library/connect?{query} HTTP/1.1\r\n\r\n".encode(),
        f"GET /library/connect?{query}&{BODY} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
        f"GET /library/connect?{query} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
        f"PUT /{BODY}?{query} HTTP/1.1\r\n\r\n".encode(),
        f"GET /{BODY}?{query} {BODY}\r\n\r\n".encode(),
        f"{BODY} {TOKEN}\r\n\r\n".encode(),
        f"GET / HTTP/1.1\r\n{BODY}\r\n\r\n".encode(),
        post_head(f"/library/send?{query}", "Content-Length: -1", "Connection: close"),
        post_head(f"/library/send?{query}", "Transfer-Encoding: chunked") + BODY.encode(),
        client_frame(BODY.encode()),
    ]
    for request in requests:
        with RawClient(address) as client:
            client.send(request)
            client.socket.shutdown(1)
            while client.receive():
                pass

    for secret in (TOKEN, TOKEN.rstrip("="), BODY, "?id=", "&t=", "/send", "/connect"):
        assert secret not in guarded.log


def test_a_token_is_not_logged_by_a_relay_that_wants_none(plain: RelayProcess) -> None:
    with RawClient(plain.address) as client:
        assert client.upgrade(f"/library/connect?id=first&v=1.0.0&t={TOKEN}")

    assert TOKEN not in plain.log
