"""The WebSocket side: each connection is a peer's connection to the relay."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger

from acebase_ipc.addresses import format_address
from acebase_ipc.errors import MessageRefused
from acebase_ipc.fast import FastServerFactory, FastServerProtocol
from acebase_ipc.handshake import Handshake
from acebase_ipc.limits import MAX_UTF8_PER_UNIT, Limits
from acebase_ipc.peers import Peer
from acebase_ipc.relay import Relay

CLOSE_NO_STATUS = 1005  # stands for a close frame without a code
PROBE = b"probe"
"""The payload of a ping that asks whether the holder of a contested id lives."""

log = Logger()


class RelayServerProtocol(FastServerProtocol):
    """One peer's WebSocket: a :class:`~acebase_ipc.peers.Connection` of the relay."""

    factory: RelayServerFactory
    handshake: Handshake
    member: Peer | None = None
    _probes: tuple[Callable[[bool], object], ...] = ()
    _probe_timeout: IDelayedCall | None = None

    def opened(self) -> None:
        """The client becomes a peer."""
        self.member = self.factory.relay.join(self.handshake, self, self.factory.wall())

    def textReceived(self, text: bytes) -> None:
        """Relay a message, or refuse it with the close code that says why."""
        if self.member is not None:
            try:
                self.factory.relay.receive(self.member, text)
            except MessageRefused as refusal:
                self.close(refusal.close_code, str(refusal))

    def binaryReceived(self, data: bytes) -> None:
        """Binary messages are not relayed."""
        if self.member is not None:
            self.factory.relay.binary_ignored(self.member)

    def congested(self) -> None:
        """Let what comes for this peer wait."""
        if self.member is not None:
            self.factory.relay.congested(self.member, self)

    def drained(self) -> None:
        """Take what has waited."""
        if self.member is not None:
            self.factory.relay.drained(self.member, self)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection has ended."""
        self._answer_probes(alive=False)
        if self.member is not None:
            close_code = (code or CLOSE_NO_STATUS) if wasClean else None
            try:
                self.factory.relay.lost(self.member, self, close_code, self.factory.clock())
            except Exception:
                log.failure("telling the relay that a connection is lost")
        self.factory.closed(self)

    @property
    def address(self) -> str:
        """Where the other end is."""
        return format_address(self.transport.getPeer())

    def probe(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Ping the other end and wait for its pong."""
        self._probes += (answer,)
        if self._probe_timeout is None:
            call_later = self.factory.reactor.callLater
            self._probe_timeout = call_later(timeout, self._answer_probes, alive=False)
            self.sendPing(PROBE)

    def onPong(self, payload: bytes) -> None:
        """The other end lives."""
        if payload == PROBE:
            self._answer_probes(alive=True)

    def _answer_probes(self, alive: bool) -> None:
        if self._probe_timeout is not None and self._probe_timeout.active():
            self._probe_timeout.cancel()
        self._probe_timeout = None
        probes, self._probes = self._probes, ()
        for answer in probes:
            answer(alive)


class RelayServerFactory(FastServerFactory):
    """Makes the connections of one relay, and ends those that are dead.

    :param relay: what the connections belong to.
    :param clock: seconds of a clock that never jumps.
    :param wall: the current time in milliseconds since 1970.
    """

    protocol = RelayServerProtocol

    def __init__(
        self,
        relay: Relay,
        limits: Limits,
        reactor: IReactorTime,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        # Whether its UTF-16 units are too many is counted when all of a message is there.
        super().__init__(relay.max_payload * MAX_UTF8_PER_UNIT, reactor)
        self.relay = relay
        self.clock = clock
        self.wall = wall
        self._ping_after = round(limits.keepalive_interval)
        self._cut_after = round(limits.keepalive_interval + limits.keepalive_timeout)
        self._when_closed: list[Deferred[None]] = []

    def build(self, handshake: Handshake, address: IAddress) -> RelayServerProtocol:
        """A connection for an accepted *handshake*."""
        protocol: RelayServerProtocol = self.buildProtocol(address)
        protocol.handshake = handshake
        return protocol

    def closed(self, connection: RelayServerProtocol) -> None:
        """*connection* has ended."""
        self.connections.discard(connection)
        if not self.connections:
            when_closed, self._when_closed = self._when_closed, []
            for each in when_closed:
                each.callback(None)

    def wait_closed(self, timeout: float) -> Deferred[None]:
        """Wait until every connection has ended, and after *timeout* seconds end them."""
        if not self.connections:
            return succeed(None)

        def abort() -> None:
            for connection in tuple(self.connections):
                connection.abort()

        deadline = self.reactor.callLater(timeout, abort)
        closed: Deferred[None] = Deferred()
        closed.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        self._when_closed.append(closed)
        return closed

    def sweep(self) -> None:
        """Ping silent peers and cut those that do not answer; once a second."""
        for connection in tuple(self.connections):
            connection.silent_for += 1
            if connection.silent_for == self._ping_after:
                connection.sendPing()
            elif connection.silent_for >= self._cut_after:
                connection.abort()
