"""A relay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, capturedLogs, eventAsText
from twisted.python.failure import Failure

from acebase_ipc.client.service import IPCClient
from acebase_ipc.peer.peer import AceBasePeer
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.limits import Limits
from acebase_ipc.server.config import AceBaseIPCServerConfig, SSLConfig
from acebase_ipc.server.handover.server import ReplaceableServer
from acebase_ipc.testing.certificate import self_signed_pem
from acebase_ipc.testing.connection import MemoryConnection
from acebase_ipc.testing.http import Response, http_request, upgrade_request
from acebase_ipc.testing.peers import AceBaseMemoryPeer, MemoryPeer
from acebase_ipc.testing.reactor import MemoryPort, MemoryReactor

DATABASE = "shop_data"
"""The wire name of the database that peers join if no other is named."""

START = 1_700_000_000
"""The time at which a relay in memory starts, in seconds since 1970."""

STOP_SECONDS = 6.0
"""Seconds after which a relay that stops has ended everything."""

_P = TypeVar("_P", bound=MemoryPeer)


def _config(options: dict[str, Any]) -> AceBaseIPCServerConfig:
    """The configuration with these *options*, the limits among them."""
    own = {each.name for each in fields(AceBaseIPCServerConfig)}
    limits = {name: options.pop(name) for name in tuple(options) if name not in own}
    if limits:
        options["limits"] = Limits(**limits)
    return AceBaseIPCServerConfig(**options)


class MemoryRelay:
    """A relay whose network and time are in memory; a context manager.

    It runs an :class:`~acebase_ipc.AceBaseIPCServer` as it is: its Site, its WebSockets,
    Twisted's TCP transports, and TLS where that is asked for. Only the sockets and the
    clock are in memory. A method that sends returns when nothing is left to do at that
    moment; time passes only in :meth:`pass_time`. An error that the relay, or anything
    else that runs meanwhile, logs is raised by the method during which it happened.

    >>> with MemoryRelay() as relay:
    ...     alice, bob = relay.join("alice"), relay.join("bobby")
    ...     bob.say("to:alice;hello")
    ...     print(alice.received())
    ['connect:bobby', 'msg:hello']

    :param reactor: the network and the clock, if something else shares them.
    :param tls: serve TLS, with a certificate for ``localhost`` made for the occasion.
    :param observer: learns what happens.
    :param expect_errors: do not raise errors that are logged; ``errors`` has them.
    :param options: of :class:`~acebase_ipc.AceBaseIPCServerConfig`, its limits included.
    :raises Exception: what the server's ``start`` fails with, unless errors are expected.
    :ivar server: the server.
    :ivar starting: fires when the server has started.
    :ivar reactor: its :class:`MemoryReactor`.
    :ivar port: the port that connections go to: the first one of the relay. Assign another
        one of ``reactor.ports``, such as that of a Site in which the relay is mounted.
    :ivar certificate: a PEM file with the certificate made for *tls*.
    :ivar errors: the texts of the errors that were logged.
    :ivar log: the log events so far.
    """

    def __init__(
        self,
        *,
        reactor: MemoryReactor | None = None,
        tls: bool = False,
        observer: Observer | None = None,
        expect_errors: bool = False,
        **options: Any,
    ) -> None:
        self.reactor = reactor or MemoryReactor()
        self.log: list[LogEvent] = []
        self.errors: list[str] = []
        self._expect_errors = expect_errors
        self._directory: TemporaryDirectory[str] | None = None
        self.certificate: Path | None = None
        if tls:
            self._directory = TemporaryDirectory(ignore_cleanup_errors=True)
            self.certificate = Path(self._directory.name, "localhost.pem")
            self.certificate.touch(mode=0o600)
            self.certificate.write_bytes(self_signed_pem())
            options["ssl"] = SSLConfig(key_path=str(self.certificate))
        with self._watching():
            self.server = ReplaceableServer(
                _config(options),
                self.reactor,
                clock=self.reactor.seconds,
                wall=lambda: START + self.reactor.seconds(),
                observer=observer,
            )
            before = len(self.reactor.ports)
            self.starting: Deferred[None] = self.server.start()
        self.port: MemoryPort | None = next(iter(self.reactor.ports[before:]), None)
        failures: list[Failure] = []
        if not expect_errors:
            self.starting.addErrback(failures.append)
        for each in failures:
            each.raiseException()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Keep what is logged meanwhile, and raise what is an error."""
        with capturedLogs() as events:
            yield
        self.log += events
        critical = [each for each in events if each["log_level"] is LogLevel.critical]
        errors = list(map(eventAsText, critical))
        self.errors += errors
        if errors and not self._expect_errors:
            raise AssertionError("\n".join(errors))

    # The network and time

    @property
    def url(self) -> str:
        """Its URL, for a client with the same reactor."""
        port = self._listening()
        return f"{'wss://localhost' if port.secure else 'ws://127.0.0.1'}:{port.number}"

    @property
    def now(self) -> float:
        """Seconds since the clock started."""
        return self.reactor.seconds()

    def turn(self) -> bool:
        """Do one turn of the reactor; returns whether there was anything to do."""
        with self._watching():
            return self.reactor.turn()

    def settle(self) -> None:
        """Do all that can be done without time passing."""
        with self._watching():
            self.reactor.settle()

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let *seconds* pass, in steps of at most *step*."""
        with self._watching():
            self.reactor.pass_time(seconds, step)

    def cut_connections(self) -> None:
        """Let the network break every connection; both ends notice."""
        self.reactor.cut_connections()
        self.settle()

    # Clients

    def connect(self, host: str = "127.0.0.1") -> MemoryConnection:
        """A new connection from *host* to ``port``, with TLS where the port speaks it."""
        port = self._listening()
        with self._watching():
            sock = self.reactor.connect(port, host)
            connection = MemoryConnection(self.reactor, sock, self.settle, secure=port.secure)
        self.settle()
        return connection

    def _listening(self) -> MemoryPort:
        if self.port is None:
            raise ValueError("the relay listens on no port: assign one to relay.port")
        return self.port

    def request(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Response:
        """The answer to a request over a connection of its own."""
        connection = self.connect()
        connection.send(http_request(method, target, body, **headers))
        return connection.response()

    def get(self, target: str, **headers: str) -> Response:
        """The answer to a GET."""
        return self.request("GET", target, **headers)

    def post(self, target: str, body: bytes | str, **headers: str) -> Response:
        """The answer to a POST."""
        data = body.encode() if isinstance(body, str) else body
        return self.request("POST", target, data, **headers)

    def upgrade(self, target: str, **headers: str) -> MemoryConnection:
        """A connection on which a WebSocket was asked for."""
        connection = self.connect()
        connection.send(upgrade_request(target, **headers))
        return connection

    def join(
        self, client_id: str, database: str = DATABASE, *, token: str = "none", query: str = ""
    ) -> MemoryPeer:
        """A documented peer that has received its welcome.

        :param client_id: its id; a ``%`` in it is given percent-encoded, as ``%25``.
        :param database: its wire name, likewise; with the path before it where the relay is
            mounted in a Site.
        :param query: more of the handshake's query, like ``&dialect=acebase``.
        :raises HandshakeRefused: if the relay does not let it in.
        """
        return self._join(MemoryPeer, client_id, database, token, query)

    def join_all(
        self, *client_ids: str, database: str = DATABASE, token: str = "none", query: str = ""
    ) -> list[MemoryPeer]:
        """Documented peers that know of each other."""
        peers = [self.join(each, database, token=token, query=query) for each in client_ids]
        for each in peers:
            each.received()
        return peers

    def join_acebase(
        self, client_id: str, database: str = DATABASE, *, token: str = "none", query: str = ""
    ) -> AceBaseMemoryPeer:
        """A peer such as the npm package acebase makes; like :meth:`join`."""
        return self._join(AceBaseMemoryPeer, client_id, database, token, query)

    def _join(self, kind: type[_P], client_id: str, database: str, token: str, query: str) -> _P:
        connection = self.upgrade(kind.target(client_id, database, token, query))
        peer = kind(client_id, connection, database=database, token=token, request=self.request)
        peer.welcome()
        return peer

    def client(self, client_id: str, database: str = DATABASE, **options: Any) -> IPCClient:
        """An :class:`~acebase_ipc.IPCClient` of this relay, not started yet.

        :param options: of the client, such as ``token`` or ``dialect``.
        """
        return IPCClient(self.url, database, client_id, **self._client_options(options))

    def peer(self, peer_id: str, database: str = DATABASE, **options: Any) -> AceBasePeer:
        """An :class:`~acebase_ipc.AceBasePeer` at this relay, not started yet.

        :param options: of the peer, such as ``token``.
        """
        return AceBasePeer(self.url, database, peer_id, **self._client_options(options))

    def _client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {"reactor": self.reactor, "clock": self.reactor.seconds}
        if self.certificate is not None:
            own["trust_root"] = self.certificate
        return {**own, **options}

    def logged(self, *words: str) -> list[str]:
        """The log lines that hold all *words*."""
        lines = map(eventAsText, self.log)
        return [line for line in lines if all(word in line for word in words)]

    # The end

    def stop(self) -> Deferred[None]:
        """Begin to stop the server; fires when it has stopped."""
        with self._watching():
            stopping: Deferred[None] = self.server.stop()
        self.settle()
        return stopping

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.stop()
                self.pass_time(STOP_SECONDS)
        finally:
            self.reactor.close()
            if self._directory is not None:
                self._directory.cleanup()
