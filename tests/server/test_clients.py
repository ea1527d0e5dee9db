"""What the program that embeds a relay tells its clients, and where the relay listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.relay.errors import NotAPeer, Overloaded
from acebase_ipc.relay.limits import MIB
from acebase_ipc.testing import MemoryReactor, MemoryRelay
from acebase_ipc.testing.relay import DATABASE

LARGE = "x" * 20_000
ENVELOPE = '{"type":"notification","from":"server","data":1}'


def outcome(deferred: Deferred[Any]) -> Any:
    """What *deferred* has fired with; an exception if it has failed."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    (result,) = results
    return result.value if isinstance(result, Failure) else result


def tell(relay: MemoryRelay, client_id: str, body: str) -> Any:
    (client,) = (each for each in relay.server.get_clients(DATABASE) if each.id == client_id)
    result = outcome(client.send_message(body))
    relay.settle()
    return result


def tell_all(relay: MemoryRelay, body: str) -> Any:
    result = outcome(relay.server.broadcast(DATABASE, body))
    relay.settle()
    return result


def test_a_client_receives_a_message_as_of_another_one() -> None:
    with MemoryRelay() as relay:
        alice, bobby = relay.join_all("alice", "bobby")
        assert tell(relay, "alice", "hello") is None
        assert alice.received() == ["msg:hello"]
        assert bobby.received() == []


def test_what_a_client_receives_is_not_interpreted() -> None:
    with MemoryRelay() as relay:
        alice, bobby = relay.join_all("alice", "bobby")
        tell(relay, "alice", "to:bobby;ping")
        tell_all(relay, "ping")
        assert alice.received() == ["msg:to:bobby;ping", "msg:ping"]
        assert bobby.received() == ["msg:ping"]


def test_an_acebase_process_receives_an_envelope_as_it_is() -> None:
    with MemoryRelay() as relay:
        worker = relay.join_acebase("worker")
        tell(relay, "worker", ENVELOPE)
        tell(relay, "worker", "disconnect:alice")
        assert worker.received() == [ENVELOPE, "msg:disconnect:alice"]


def test_a_broadcast_reaches_all_clients_of_one_database() -> None:
    with MemoryRelay() as relay:
        alice, worker = relay.join("alice"), relay.join_acebase("worker")
        other = relay.join("other", "library_data")
        alice.received()
        assert tell_all(relay, ENVELOPE) == 2
        assert alice.received() == [f"msg:{ENVELOPE}"]
        assert worker.received() == [ENVELOPE]
        assert other.received() == []
        assert outcome(relay.server.broadcast("nobody_data", "hello")) == 0


def test_a_large_message_is_downloaded_once_by_each() -> None:
    with MemoryRelay() as relay:
        alice, bobby = relay.join_all("alice", "bobby")
        worker = relay.join_acebase("worker")
        for each in (alice, bobby, worker):
            each.received()
        tell_all(relay, LARGE)
        (first,), (second,) = alice.received(), bobby.received()
        assert alice.download(first).text == bobby.download(second).text == LARGE
        assert worker.received() == [f"msg:{LARGE}"]
        tell(relay, "alice", LARGE)
        (third,) = alice.received()
        assert bobby.download(third).status == 404
        assert alice.download(third).text == LARGE


def test_a_client_that_has_left_is_not_told() -> None:
    with MemoryRelay() as relay:
        alice = relay.join("alice")
        (client,) = relay.server.get_clients(DATABASE)
        alice.leave()
        assert isinstance(outcome(client.send_message("too late")), NotAPeer)


def test_a_suspended_client_is_told_when_it_is_back() -> None:
    with MemoryRelay() as relay:
        worker = relay.join_acebase("worker")
        (client,) = relay.server.get_clients(DATABASE)
        worker.lose()
        assert outcome(client.send_message(ENVELOPE)) is None
        assert relay.join_acebase("worker").received() == [ENVELOPE]


def test_a_client_that_reads_nothing_is_disconnected_as_by_others() -> None:
    with MemoryRelay(max_backlog=100_000) as relay:
        relay.join("alice").stop_reading()
        results = [tell(relay, "alice", "x" * 15_000) for _ in range(7)]
        assert results[0] is None
        assert isinstance(results[-1], NotAPeer)


def test_a_message_above_the_limit_is_refused() -> None:
    with MemoryRelay(max_message=1 * MIB) as relay:
        alice = relay.join("alice")
        assert isinstance(tell(relay, "alice", "x" * (MIB + 1)), RequestTooLarge)
        assert isinstance(tell_all(relay, "x" * (MIB + 1)), RequestTooLarge)
        assert alice.received() == []


def test_a_message_for_which_the_store_has_no_room_is_refused() -> None:
    with MemoryRelay(max_message=1 * MIB, max_stored=1 * MIB) as relay:
        alice, worker = relay.join("alice"), relay.join_acebase("worker")
        large = "x" * 600_000
        assert tell(relay, "alice", large) is None
        assert isinstance(tell(relay, "alice", large), Overloaded)
        assert isinstance(tell_all(relay, large), Overloaded)
        assert tell(relay, "worker", large) is None
        assert [each[:4] for each in alice.received()] == ["conn", "get:"]
        assert len(worker.received()) == 1


@pytest.mark.parametrize("send", [tell, lambda relay, _, body: tell_all(relay, body)])
def test_a_message_is_valid_text(send: Callable[[MemoryRelay, str, Any], Any]) -> None:
    with MemoryRelay() as relay:
        relay.join("alice")
        with pytest.raises(TypeError, match="not bytes"):
            send(relay, "alice", b"hello")
        with pytest.raises(ValueError, match="surrogates"):
            send(relay, "alice", "\ud800")


# Where it listens


@pytest.mark.parametrize(
    ("options", "scheme", "host"),
    [
        ({"port": 0}, "ws", "127.0.0.1"),
        ({"port": 0, "host": "::1"}, "ws", "[::1]"),
        ({"port": None, "endpoints": ("tcp:0:interface=0.0.0.0",)}, "ws", "0.0.0.0"),
    ],
)
def test_url_and_port_tell_where_it_listens(
    options: dict[str, Any], scheme: str, host: str
) -> None:
    with MemoryRelay(**options) as relay:
        assert relay.server.port > 0
        assert relay.server.url == f"{scheme}://{host}:{relay.server.port}"


def test_the_url_of_a_port_with_tls_says_so() -> None:
    with MemoryRelay(tls=True, port=0) as relay:
        assert relay.server.url.startswith("wss://")


def test_a_server_that_does_not_listen_has_no_url() -> None:
    reactor = MemoryReactor()
    server = AceBaseIPCServer(AceBaseIPCServerConfig(port=0), reactor)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="does not listen"):
            _ = server.url
        with pytest.raises(RuntimeError, match="does not listen"):
            _ = server.port
        server.startService()
        assert server.url
        server.stopService()
        reactor.pass_time(6)
    reactor.close()
