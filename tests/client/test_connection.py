"""A client's WebSocket, to a server that the test plays."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.exceptions import DNSMismatch
from service_identity.hazmat import DNS_ID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, eventAsText

from acebase_ipc import IPCClient
from acebase_ipc.client import errors as client_errors
from acebase_ipc.client.errors import (
    ClosedAsTooLarge,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionProblem,
    NotARelay,
    PolicyViolated,
    ProtocolError,
    RelayBusy,
    RelayFailed,
    RelayShutDown,
    Replaced,
    TLSFailed,
    TokenRejected,
)
from acebase_ipc.testing import Opcode
from tests.clients import Network, PlayedServer


class Played:
    """A client and the server it has connected to.

    :ivar heard: the messages that the client has delivered.
    """

    def __init__(self, **options: Any) -> None:
        self.network = Network(MemoryReactorClock())
        self.client = self.network.client("alice", **options)
        self.heard: list[str] = []
        self.client.on_message(self.heard.append)
        self.network.start(self.client)
        self.server = PlayedServer(self.network.transports[0])

    def settle(self) -> None:
        """Run everything that can happen now."""
        self.network.settle()

    def accepted(self) -> Played:
        """Let the handshake be accepted."""
        self.server.accept()
        self.settle()
        return self

    def welcomed(self, max_payload: int = 100) -> Played:
        """Let the client be welcomed."""
        self.server.accept()
        self.server.say(f'welcome:{{"maxPayload":{max_payload}}}')
        self.settle()
        assert self.client.connected
        self.server.frames()
        return self

    def again(self) -> PlayedServer:
        """The server that the client connects to when it tries again."""
        self.network.pass_time(1)
        assert self.client is not None
        websockets = [each for each in self.network.transports if b"/connect?" in each.sent]
        assert len(websockets) > 1
        self.server = PlayedServer(websockets[-1])
        return self.server


class TestHandshake:
    def test_this_is_what_it_asks_for(self) -> None:
        request = Played(dbname="a b", token="s3cret", url="wss://[::1]:1/x").server.request
        line, *headers = request.split("\r\n")
        assert line == "GET /x/a%20b/connect?id=alice&v=1.0.0&dialect=documented&resume=1 HTTP/1.1"
        assert "Host: [::1]:1" in headers
        assert "Authorization: Bearer s3cret" in headers

    def test_a_message_waits_for_no_other(self) -> None:
        assert Played().server.transport.no_delay

    def test_without_a_token_there_is_none(self) -> None:
        assert "Authorization" not in Played().server.request

    @pytest.mark.parametrize(
        ("answer", "kind", "says"),
        [
            ("HTTP/1.1 403 F\r\nContent-Length: 5\r\n\r\nno no", TokenRejected, "403 'no no'"),
            ("HTTP/1.1 503 B\r\ncontent-length:3\r\n\r\na\x1bb", RelayBusy, "503 'a b'"),
            ("HTTP/1.1 503 B\r\nContent-Length: 4\r\n\r\na\nbc", RelayBusy, "503 'a'"),
            ("HTTP/1.1 503 B\r\nX: y\r\n\r\nchunks", RelayBusy, "503 ''"),
            ("HTTP/1.0 200 OK\r\n\r\n", NotARelay, "200"),
            ("HTTP/1.1 403 F\r\nContent-Length: 9\r\n\r\nno", None, ""),
            ("HTTP/1.1 403 F", None, ""),
            ("HTTP", None, ""),
            ("SSH-2.0-OpenSSH_9.2p1\r\n", NotARelay, "does not speak HTTP"),
            ("HTTP/2\r\n\r\n", NotARelay, "does not speak HTTP"),
            ("HTTP/1.1 101 S\r\n\r\n", NotARelay, "Upgrade"),
            ("HTTP/1.1 101 " + "x" * 70_000, NotARelay, "too long"),
        ],
    )
    def test_other_answers_are_understood_as_soon_as_possible(
        self, answer: str, kind: type[ConnectionProblem] | None, says: str
    ) -> None:
        played = Played()
        played.server.transport.receive(answer.encode())
        played.settle()
        assert (type(played.client.problem) if played.client.problem else None) is kind
        assert says in str(played.client.problem)

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            ("HTTP/1.1 403 F\r\nContent-Length: 9\r\n\r\nno", TokenRejected),
            ("SSH", NotARelay),
            ("HTTP", ConnectionFailed),
            ("", ConnectionFailed),
        ],
    )
    def test_an_answer_that_is_cut_off_is_understood_as_far_as_possible(
        self, answer: str, kind: type[ConnectionProblem]
    ) -> None:
        played = Played()
        played.server.transport.receive(answer.encode())
        played.server.transport.lose(ConnectionDone())
        played.settle()
        assert type(played.client.problem) is kind

    def test_a_wrong_proof_of_the_upgrade_is_refused(self) -> None:
        played = Played()
        played.server.accept("wrong")
        played.settle()
        assert isinstance(played.client.problem, NotARelay)

    def test_the_first_message_is_the_welcome(self) -> None:
        played = Played().accepted()
        assert not played.client.connected
        played.server.say("msg:hello")
        played.settle()
        assert isinstance(played.client.problem, NotARelay)
        assert "no welcome" in str(played.client.problem)

    @pytest.mark.parametrize("accepted", [False, True])
    def test_a_relay_that_does_not_welcome_is_disconnected(self, accepted: bool) -> None:
        played = Played()
        if accepted:
            played.accepted()
        played.network.pass_time(9.5)
        assert played.client.problem is None
        played.network.pass_time(0.5)
        assert isinstance(played.client.problem, ConnectionFailed)
        assert "within 10 s" in str(played.client.problem)

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (SSL.Error([("SSL routines", "", "certificate verify failed")]), "verify failed"),
            (SSL.Error([]), "no reason given"),
            (VerificationError(errors=[DNSMismatch(DNS_ID("a.example"))]), "a.example"),
        ],
    )
    def test_a_certificate_that_is_not_trusted_is_final_at_first(
        self, error: Exception, says: str
    ) -> None:
        played = Played()
        played.server.transport.lose(error)
        played.settle()
        assert isinstance(played.client.problem, TLSFailed)
        assert says in str(played.client.problem)
        assert played.client.failed

    def test_after_a_welcome_it_may_be_a_passing_mistake(self) -> None:
        played = Played().welcomed()
        played.server.transport.lose()
        played.again().transport.lose(SSL.Error([("", "", "certificate has expired")]))
        played.settle()
        assert isinstance(played.client.problem, TLSFailed)
        assert not played.client.failed
        assert played.again()


class TestClosing:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (1000, ConnectionClosed),
            (1001, RelayShutDown),
            (1007, ProtocolError),
            (1008, PolicyViolated),
            (1009, ClosedAsTooLarge),
            (1011, RelayFailed),
            (4001, Replaced),
        ],
    )
    @pytest.mark.parametrize("ends", [True, False])
    def test_each_code_is_understood_whether_or_not_the_relay_ends_the_connection(
        self, code: int, kind: type[ConnectionProblem], ends: bool
    ) -> None:
        played = Played().welcomed()
        played.server.close(code, "why")
        if ends:
            played.settle()
            assert played.server.frames() == [(Opcode.CLOSE, b"\x03\xe8")]
            played.server.transport.lose(ConnectionDone())
        played.network.pass_time(0 if ends else 5)
        assert type(played.client.problem) is kind
        assert f"({code} 'why')" in str(played.client.problem)

    def test_a_close_frame_may_say_nothing(self) -> None:
        played = Played().welcomed()
        played.server.send(b"", Opcode.CLOSE)
        played.server.transport.lose(ConnectionDone())
        played.settle()
        assert "(1005 '')" in str(played.client.problem)

    def test_nothing_is_sent_to_a_relay_that_closes(self) -> None:
        played = Played().welcomed()
        played.server.close(1001)
        played.settle()
        sent, pinged = played.client.send("x"), played.client.ping()
        pinged.addErrback(lambda failure: failure.trap(client_errors.NotConnected))
        assert not sent.called
        assert pinged.called
        assert [opcode for opcode, _ in played.server.frames()] == [Opcode.CLOSE]
        played.server.transport.lose()
        played.again().accept()
        played.server.say('welcome:{"maxPayload":100}')
        played.settle()
        assert sent.called
        assert played.server.received() == ["x"]

    def test_what_arrives_while_it_closes_is_not_delivered(self) -> None:
        played = Played().welcomed()
        played.client.stopService()
        played.server.say("msg:late")
        played.settle()
        assert played.heard == []

    @pytest.mark.parametrize(
        ("payload", "opcode", "kind", "says"),
        [
            (b"msg:\xff", 1, ProtocolError, "UTF-8"),
            (b"", Opcode.CONTINUATION, ProtocolError, "1002"),
            (b"msg:" + b"x" * 2021, 1, ClosedAsTooLarge, "exceeds 1000 bytes"),
        ],
    )
    def test_what_must_not_be_ends_the_connection(
        self, payload: bytes, opcode: int, kind: type[ConnectionProblem], says: str
    ) -> None:
        played = Played(max_message=1000).welcomed()
        played.server.send(payload, opcode)
        played.settle()
        assert type(played.client.problem) is kind
        assert says in str(played.client.problem)
        played.again().accept()

    def test_an_unknown_message_is_ignored(self) -> None:
        played = Played().welcomed()
        played.server.say("news:x", "pong", 'welcome:{"maxPayload":1}', "msg:1")
        played.server.send(b"msg:2", Opcode.BINARY)
        played.settle()
        assert played.heard == ["1"]
        assert played.client.connected


class TestSilence:
    def test_a_silent_relay_is_pinged_and_then_disconnected(self) -> None:
        played = Played().welcomed()
        played.network.pass_time(24.5)
        assert played.server.frames() == []
        played.network.pass_time(0.5)
        assert played.server.frames() == [(Opcode.PING, b"")]
        played.network.pass_time(10)
        assert played.client.connected
        played.network.pass_time(0.5)
        assert isinstance(played.client.problem, client_errors.ConnectionLost)
        assert "silent for 35 s" in str(played.client.problem)

    def test_anything_that_arrives_is_a_sign_of_life(self) -> None:
        played = Played().welcomed()
        for sign in (Opcode.PONG, Opcode.PING):
            played.network.pass_time(30)
            assert (Opcode.PING, b"") in played.server.frames()
            played.server.send(b"", sign)
            played.network.pass_time(24)
            assert (Opcode.PING, b"") not in played.server.frames()
            played.network.pass_time(1)
            assert (Opcode.PING, b"") in played.server.frames()
            played.server.send(b"", Opcode.PONG)
            played.settle()
        assert played.client.connected

    def test_a_client_that_was_blocked_looks_for_an_answer_first(self) -> None:
        played = Played().welcomed()
        played.network.pass_time(26)
        played.network.reactor.advance(20)
        played.server.send(b"", Opcode.PONG)
        played.network.pass_time(1)
        assert played.client.connected

    def test_a_client_that_does_not_read_does_not_count(self) -> None:
        played = Played(max_queue=10).welcomed()
        played.server.say("get:1", "msg:" + "x" * 20)
        played.settle()
        assert not played.server.transport.reading
        played.network.pass_time(40)
        assert played.client.connected


class TestHoldingBack:
    def test_it_stops_reading_while_too_much_waits_for_a_download(self) -> None:
        played = Played(max_queue=10).welcomed()
        played.server.say("get:1", "msg:small")
        played.settle()
        assert played.server.transport.reading
        played.server.say("msg:2")
        played.settle()
        assert not played.server.transport.reading
        (download,) = (each for each in played.network.transports if b"/receive?" in each.sent)
        download.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlarge")
        played.settle()
        assert played.heard == ["large", "small", "2"]
        assert played.server.transport.reading

    def test_it_reads_on_only_when_there_is_room(self) -> None:
        played = Played(max_queue=10).welcomed()
        played.server.say("get:1", "msg:1", "get:2", "msg:" + "x" * 20)
        played.settle()
        answer_http(played, b"msg=1", ok("large"))
        assert played.heard == ["large", "1"]
        assert not played.server.transport.reading
        answer_http(played, b"msg=2", ok("large, too"))
        assert played.heard == ["large", "1", "large, too", "x" * 20]
        assert played.server.transport.reading

    def test_it_can_be_stopped_meanwhile(self) -> None:
        played = Played(max_queue=10).welcomed()
        played.server.say("get:1", "msg:" + "x" * 20)
        played.settle()
        stopped = played.client.stopService()
        assert played.server.transport.reading
        (download,) = (each for each in played.network.transports if b"/receive?" in each.sent)
        assert download.reason is not None
        played.settle()
        assert played.server.frames()[-1] == (Opcode.CLOSE, b"\x03\xe8")
        played.server.close(1000)
        played.server.transport.lose(ConnectionDone())
        played.settle()
        assert stopped.called
        assert played.heard == []


class TestAfterwards:
    def test_no_download_is_tried_again_or_delivered(self) -> None:
        played = Played().welcomed()
        played.server.say("get:1", "get:2")
        played.settle()
        transports = list(played.network.transports)
        stop(played)
        played.network.pass_time(10)
        assert played.network.transports == transports
        assert all(each.reason for each in transports)
        assert played.network.reactor.getDelayedCalls() == []
        assert played.heard == []

    def test_a_question_about_peers_is_not_asked_again(self) -> None:
        with capturedLogs() as events:
            played = Played().welcomed()
            asked = played.client.fetch_peers()
            failures: list[Any] = []
            asked.addErrback(failures.append)
            stop(played)
            played.network.pass_time(10)
        assert isinstance(failures[0].value, client_errors.NotConnected)
        assert all(each.reason for each in played.network.transports)
        assert not [each for each in events if each["log_level"] is LogLevel.warn]

    def test_a_download_of_before_a_restart_is_not_delivered(self) -> None:
        played = Played().welcomed()
        played.server.say("get:1")
        played.settle()
        stop(played)
        played.client.startService()
        played.again().accept()
        played.server.say('welcome:{"maxPayload":100}', "get:2", "msg:3")
        played.settle()
        answer_http(played, b"msg=2", ok("2"))
        assert played.heard == ["2", "3"]

    def test_a_question_that_is_cancelled_is_not_asked_again(self) -> None:
        played = Played().welcomed()
        asked = played.client.fetch_peers()
        played.settle()
        requests = len(played.network.transports)
        asked.cancel()
        failures: list[Any] = []
        asked.addErrback(failures.append)
        assert isinstance(failures[0].value, CancelledError)
        played.network.pass_time(10)
        assert len(played.network.transports) == requests


class TestPeersAfterReconnecting:
    def test_what_an_earlier_connection_told_is_forgotten(self) -> None:
        played = Played().welcomed()
        answer_http(played, b"/clients", ok('[{"id":"bobby"}]'))
        played.server.say("get:1", "msg:2", "disconnect:bobby", "connect:carol")
        played.settle()
        played.server.transport.lose()
        played.again().accept()
        played.server.say('welcome:{"maxPayload":100}')
        played.settle()
        answer_http(played, b"/clients", ok('[{"id":"bobby"}]'))
        answer_http(played, b"/receive?", ok("1"))
        assert played.heard == ["1", "2"]
        assert played.client.peers == {"bobby"}

    def test_an_answer_to_an_earlier_question_is_dropped(self) -> None:
        played = Played().welcomed()
        (early,) = (each for each in played.network.transports if b"/clients" in each.sent)
        played.server.transport.lose()
        played.again().accept()
        played.server.say('welcome:{"maxPayload":100}')
        played.settle()
        answer_http(played, b"/clients", ok('[{"id":"bobby"}]'))
        early.receive(ok("[]").encode())
        played.settle()
        assert played.client.peers == {"bobby"}


def stop(played: Played) -> None:
    """Stop the client, and let the server answer."""
    stopped = played.client.stopService()
    played.settle()
    played.server.close(1000)
    played.server.transport.lose(ConnectionDone())
    played.settle()
    assert stopped.called


def answer_http(played: Played, path: bytes, answer: str | None) -> None:
    """Answer the latest request for *path*, or end its connection."""
    requests = [each for each in played.network.transports if path in each.sent and not each.reason]
    transport = requests[-1]
    if answer is None:
        transport.lose(ConnectionLost())
    else:
        transport.receive(answer.encode())
        transport.lose(ConnectionDone())
    played.settle()


def ok(body: str) -> str:
    """An answer 200."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"


class TestHTTP:
    def test_a_download_that_fails_is_repeated(self) -> None:
        played = Played().welcomed()
        played.server.say("get:1", "msg:2")
        played.settle()
        answer_http(played, b"/receive?", None)
        played.network.pass_time(1)
        answer_http(played, b"/receive?", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        played.network.pass_time(4)
        answer_http(played, b"/receive?", ok("1"))
        assert played.heard == ["1", "2"]

    @pytest.mark.parametrize(
        ("answers", "says"),
        [
            ([None] * 8, "the relay did not answer"),
            (["HTTP/1.1 404 N\r\nContent-Length: 4\r\n\r\ngone"], "404 'gone'"),
            ([ok("x" * 21)], "exceeds 20 bytes"),
            (["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", *[None] * 7], "did not answer"),
        ],
    )
    def test_a_download_that_keeps_failing_is_logged_and_left_out(
        self, answers: list[str | None], says: str
    ) -> None:
        played = Played(max_message=20).welcomed()
        with capturedLogs() as events:
            played.server.say("get:1", "msg:2")
            played.settle()
            for each in answers:
                answer_http(played, b"/receive?", each)
                played.network.pass_time(25)
        assert played.heard == ["2"]
        (warning,) = (each for each in events if "a large message is lost" in eventAsText(each))
        assert warning["log_level"] is LogLevel.warn
        assert says in warning["reason"]

    def test_a_download_that_takes_too_long_fails(self) -> None:
        played = Played().welcomed()
        played.server.say("get:1", "msg:2")
        played.settle()
        for delay in (60, 1, 60, 1, 60, 2, 60, 4, 60, 8, 60, 15, 60, 25, 59):
            played.server.send(b"", Opcode.PING)
            assert played.heard == []
            for _ in range(delay):
                played.server.send(b"", Opcode.PING)
                played.network.pass_time(1)
        played.network.pass_time(1)
        assert played.heard == ["2"]

    def test_a_post_waits_for_a_pong_only_after_other_messages(self) -> None:
        played = Played().welcomed()
        played.client.send("small")
        played.settle()
        assert played.server.received() == ["small"]
        played.server.transport.lose()
        played.again().accept()
        played.server.say('welcome:{"maxPayload":100}')
        played.settle()
        played.client.send("x" * 200)
        played.settle()
        assert played.server.received() == []
        answer_http(played, b"POST ", ok("ok"))
        played.client.send("small")
        played.client.send("x" * 200)
        played.settle()
        assert played.server.received() == ["small", "ping"]

    def test_a_post_is_not_repeated(self) -> None:
        played = Played().welcomed()
        sent, after = played.client.send("x" * 200), played.client.send("y")
        played.settle()
        failures: list[Any] = []
        sent.addErrback(failures.append)
        answer_http(played, b"POST ", None)
        assert isinstance(failures[0].value, client_errors.RequestUnanswered)
        assert failures[0].value.sent
        played.network.pass_time(9.5)
        assert played.server.received() == []  # the relay may still have "x" in a buffer
        played.network.pass_time(0.5)
        assert played.server.received() == ["y"]
        assert after.called
        assert sum(each.sent.count(b"POST ") for each in played.network.transports) == 1

    @pytest.mark.parametrize("body", ["[1]", "{}", "[{}]", "no json", "null"])
    def test_nonsense_about_peers_is_refused(self, body: str) -> None:
        played = Played().welcomed()
        answer_http(played, b"/clients", ok('[{"id":"bobby"},{"id":"alice"}]'))
        assert played.client.peers == {"bobby"}
        asked = played.client.fetch_peers()
        failures: list[Any] = []
        asked.addErrback(failures.append)
        played.settle()
        answer_http(played, b"/clients", ok(body))
        if body != "{}":
            assert isinstance(failures[0].value, client_errors.RequestFailed)
            assert played.client.peers == {"bobby"}

    def test_what_the_relay_tells_meanwhile_is_newer(self) -> None:
        played = Played().welcomed()
        played.server.say("connect:carol", "disconnect:carol", "connect:david", "connect:emily")
        played.server.say("disconnect:bobby")
        played.settle()
        answer_http(played, b"/clients", ok('[{"id":"bobby"},{"id":"carol"},{"id":"frank"}]'))
        assert played.client.peers == {"david", "emily", "frank"}

    def test_it_follows_no_redirect(self) -> None:
        played = Played(token="s3cret").welcomed()
        answer_http(played, b"/clients", ok("[]"))
        asked = played.client.fetch_peers()
        failures: list[Any] = []
        asked.addErrback(failures.append)
        played.settle()
        head = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://a.example/b\r\n\r\n"
        answer_http(played, b"/clients", head)
        assert isinstance(failures[0].value, client_errors.RequestDenied)
        assert not [each for each in played.network.transports if b"a.example" in each.sent]

    def test_an_unanswered_question_about_peers_is_logged(self) -> None:
        with capturedLogs() as events:
            played = Played().welcomed()
            answer_http(played, b"/clients", "HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")
        assert played.client.connected
        (warning,) = (each for each in events if each["log_level"] is LogLevel.warn)
        assert "cannot ask who is connected" in warning["log_format"]

    def test_requests_present_the_token_and_keep_their_connections_for_a_while(self) -> None:
        played = Played(token="s3cret").welcomed()
        (clients,) = (each for each in played.network.transports if b"/clients" in each.sent)
        assert b"Authorization: Bearer s3cret\r\n" in clients.sent
        clients.receive(ok("[]").encode())
        played.settle()
        played.client.fetch_peers()
        played.settle()
        assert clients.sent.count(b"GET ") == 2
        clients.receive(ok("[]").encode())
        played.network.pass_time(9.5)
        assert clients.reason is None
        played.network.pass_time(0.5)
        assert clients.reason is not None


def test_the_connection_does_not_name_the_token() -> None:
    played = Played(token="s3cret")
    client: IPCClient = played.client
    assert "s3cret" not in repr(client._link.connection)
    connection = client._link.connection
    assert connection is not None
    assert "s3cret" not in repr(connection.factory)


class TestFaultsOfOthers:
    """A faulty or hostile relay, proxy or other server takes neither memory nor time."""

    @pytest.mark.parametrize("before", ["", "HTTP/1.1 100 C\r\n\r\n"])
    def test_an_answer_with_endless_headers_is_cut_off(self, before: str) -> None:
        played = Played().welcomed()
        (clients,) = (each for each in played.network.transports if b"/clients" in each.sent)
        clients.receive(f"{before}HTTP/1.1 200 OK\r\n".encode())
        for number in range(70):
            assert clients.reason is None
            clients.receive(b"X-%d: %s\r\n" % (number, b"y" * 1000))
            played.settle()
            if number > 60 and clients.reason is not None:
                break
        assert isinstance(clients.reason, ConnectionAborted)

    def test_endless_informational_answers_are_cut_off(self) -> None:
        played = Played().welcomed()
        (clients,) = (each for each in played.network.transports if b"/clients" in each.sent)
        for _ in range(70):
            clients.receive(b"HTTP/1.1 103 E\r\nX: %s\r\n\r\n" % (b"y" * 1000))
            played.settle()
        assert isinstance(clients.reason, ConnectionAborted)

    def test_an_answer_may_have_some_headers_and_come_in_pieces(self) -> None:
        played = Played().welcomed()
        head = "".join(f"X-{number}: {'y' * 1000}\r\n" for number in range(50))
        answer = "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n" + head
        answer += "Content-Length: 16\r\n\r\n" + '[{"id":"bobby"}]'
        (clients,) = (each for each in played.network.transports if b"/clients" in each.sent)
        for start in range(0, len(answer), 777):
            clients.receive(answer[start : start + 777].encode())
            played.settle()
        assert played.client.peers == {"bobby"}

    def test_a_large_body_is_not_taken_for_a_head(self) -> None:
        played = Played().welcomed()
        played.server.say("get:1")
        played.settle()
        answer_http(played, b"/receive?", ok("x" * 200_000))
        assert played.heard == ["x" * 200_000]

    def test_pings_are_answered_once_while_their_answers_are_not_read(self) -> None:
        played = Played().welcomed()
        transport = played.server.transport
        for payload in (b"first", b"second"):
            played.server.send(payload, Opcode.PING)
        played.settle()
        assert played.server.frames() == [(Opcode.PONG, b"first"), (Opcode.PONG, b"second")]
        transport.room = 0
        for number in range(1000):
            played.server.send(b"%d" % number, Opcode.PING)
        played.settle()
        assert played.server.frames() == [(Opcode.PONG, b"0")]
        transport.drain()
        played.settle()
        assert played.server.frames() == [(Opcode.PONG, b"999")]

    @pytest.mark.parametrize("payload", [b"", b"x"])
    def test_a_message_of_too_many_frames_ends_the_connection(
        self, payload: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("acebase_ipc.client.connection.MAX_FRAGMENTS", 100)
        played = Played().welcomed()
        for last in (98, 99):
            played.server.send(b"msg:", Opcode.TEXT, fin=False)
            for number in range(last + 1):
                played.server.send(payload, Opcode.CONTINUATION, fin=number == last)
            played.settle()
        assert played.heard == [payload.decode() * 99]
        assert isinstance(played.client.problem, ClosedAsTooLarge)
        assert "more than 100 frames" in str(played.client.problem)

    def test_peers_without_end_are_not_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("acebase_ipc.client.presence.MAX_PEERS", 3)
        played = Played().welcomed()
        played.server.say(*(f"connect:peer{number}" for number in range(10)))
        played.server.say("disconnect:peer0", "connect:peer9", "connect:peer8")
        played.settle()
        assert played.client.peers == {"peer1", "peer2", "peer9"}

    def test_a_list_of_peers_without_end_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("acebase_ipc.client.http.MAX_PEER_LIST", 30)
        with capturedLogs() as events:
            played = Played().welcomed()
            answer_http(played, b"/clients", ok('[{"id":"bobby"},{"id":"carol"}]'))
        assert played.client.peers == frozenset()
        assert [each for each in events if "exceeds 30 bytes" in each.get("reason", "")]

    def test_a_head_of_a_handshake_that_cannot_be_decoded_ends_the_connection(self) -> None:
        played = Played()
        with capturedLogs():
            played.server.transport.receive(b"HTTP/1.1 101 S\r\nX: \xff\xfe\r\n\r\n")
            played.settle()
        assert played.server.transport.reason is not None
        assert played.client.problem is not None

    def test_a_defect_of_ours_ends_the_connection_and_is_logged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        played = Played().welcomed()

        def fails(text: str) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("acebase_ipc.client.reconnect.read", fails)
        with capturedLogs() as events:
            played.server.say("msg:1", "msg:2")
            played.settle()
        monkeypatch.undo()
        assert isinstance(played.client.problem, ProtocolError)
        assert [e["log_failure"].type for e in events if "log_failure" in e] == [ZeroDivisionError]
        played.again().accept()

    def test_a_relay_that_does_not_answer_ping_fails_a_large_message_only(self) -> None:
        played = Played().welcomed()
        played.client.send("small")
        large, after = played.client.send("x" * 200), played.client.send("after")
        failures: list[Any] = []
        large.addErrback(failures.append)
        for _ in range(30):
            assert not after.called
            played.server.send(b"", Opcode.PING)  # it lives
            played.network.pass_time(1)
        assert isinstance(failures[0].value, client_errors.PingTimeout)
        assert after.called
        assert played.server.received() == ["small", "ping", "after"]
        assert played.client.connected

    def test_a_late_pong_is_not_taken_for_the_next_one(self) -> None:
        played = Played().welcomed()
        early = played.client.ping(timeout=1)
        early.addErrback(lambda failure: failure.trap(client_errors.PingTimeout))
        played.network.pass_time(1)
        later = played.client.ping(timeout=5)
        played.server.say("pong")
        played.settle()
        assert not later.called
        played.server.say("pong")
        played.settle()
        assert later.called

    def test_a_download_that_fails_does_not_make_a_full_client_deaf(self) -> None:
        played = Played(max_queue=10, max_message=20).welcomed()
        played.server.say("get:1", "get:" + "2" * 20)
        played.settle()
        assert not played.server.transport.reading
        for _ in range(2):
            answer_http(played, b"/receive?", ok("x" * 21))
        assert played.server.transport.reading
        played.server.say("msg:heard")
        played.settle()
        assert played.heard == ["heard"]

    def test_many_failing_downloads_do_not_recurse(self) -> None:
        played = Played().welcomed()
        played.client._traffic.http = None  # every download fails at once
        played.server.say(*(f"get:{number}" for number in range(3000)), "msg:last")
        played.settle()
        assert played.heard == ["last"]

    def test_a_post_that_never_left_holds_nothing_back(self) -> None:
        played = Played().welcomed()
        played.network.refuses = True
        sent, after = played.client.send("x" * 200), played.client.send("y")
        failures: list[Any] = []
        sent.addErrback(failures.append)
        played.settle()
        assert not failures[0].value.sent
        assert "nothing was relayed" in str(failures[0].value)
        assert after.called

    def test_a_client_that_is_stopped_does_not_wait_for_http_connections(self) -> None:
        played = Played().welcomed()
        (clients,) = (each for each in played.network.transports if b"/clients" in each.sent)
        clients.receive(ok("[]").encode())
        played.settle()
        clients.loseConnection = lambda: None  # type: ignore[method-assign]
        stopped = played.client.stopService()
        played.server.transport.lose(ConnectionDone())
        played.network.pass_time(4.5)
        assert not stopped.called
        played.network.pass_time(0.5)
        assert stopped.called
        assert isinstance(clients.reason, ConnectionAborted)

    def test_an_endpoint_that_never_answers_is_given_up(self) -> None:
        network = Network(MemoryReactorClock())
        network.accept = lambda: False  # type: ignore[method-assign]
        client = network.started()
        failed = client.when_connected(1)
        failures: list[Any] = []
        failed.addErrback(failures.append)
        network.pass_time(39.5)
        assert failures == []
        network.pass_time(0.5)
        assert "no connection within 40 s" in str(failures[0].value)

    def test_an_endpoint_that_raises_is_a_failure_to_connect(self) -> None:
        network = Network(MemoryReactorClock())

        def connect(factory: object) -> Any:
            raise OSError("no route")

        network.connect = connect  # type: ignore[method-assign]
        client = network.started()
        assert isinstance(client.problem, ConnectionFailed)
        assert "no route" in str(client.problem)

    def test_a_connection_that_comes_after_its_attempt_was_cancelled_is_ended(self) -> None:
        network = Network(MemoryReactorClock())
        client = network.client()
        client.startService()
        ((factory, made),) = network._connecting
        made.addErrback(lambda failure: failure.trap(CancelledError))
        assert client.stopService().called
        network._accept(factory, Deferred())
        assert isinstance(network.last.reason, ConnectionAborted)
        network.settle()
        assert not client.connected

    @pytest.mark.parametrize("policy", [None, -1, float("nan"), float("inf"), "1", [], KeyError])
    def test_a_retry_policy_that_gives_no_delay_is_logged_and_replaced(self, policy: Any) -> None:
        def give(failures: int) -> Any:
            if policy is KeyError:
                raise KeyError
            return policy

        network = Network(MemoryReactorClock())
        network.refuses = True
        with capturedLogs() as events:
            client = network.started(retry_policy=give)
            failed = client.when_connected(3)
            failed.addErrback(lambda failure: failure.trap(ConnectionFailed))
            network.pass_time(2)
            assert failed.called
            assert client.stopService().called
        levels = {each["log_level"] for each in events if "retry_policy" in each["log_format"]}
        assert levels == {LogLevel.critical if policy is KeyError else LogLevel.error}
