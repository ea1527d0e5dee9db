"""The end of a link at the home of a database: there a client's connection goes on."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as BaseProtocol
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

from acebase_ipc.addresses import format_address
from acebase_ipc.cluster import handshake
from acebase_ipc.cluster.handshake import HandshakeFailed, Ticket
from acebase_ipc.cluster.links import MOVE_TIMEOUT, TIMEOUT, prepare
from acebase_ipc.proxy_protocol import Header, parse_header

log = Logger()


class LinkedConnection(ProtocolWrapper):
    """The connection of a client at another relay: it has the client's address.

    :ivar is_linked: tells that it must not be passed on once more.
    """

    is_proxied = True
    """Tells the connection of a peer that its client is behind a proxy."""

    is_linked = True

    transport: Any

    def __init__(self, factory: Any, protocol: Any, header: Header) -> None:
        super().__init__(factory, protocol)
        self._header = header

    def getPeer(self) -> IAddress:
        """Return the client's address."""
        return self._header.source or UNIXAddress(None)

    def getHost(self) -> IAddress:
        """Return the address that the client has connected to."""
        return self._header.destination or UNIXAddress(None)


class LinkServer(BaseProtocol):
    """The end of a link at the home: becomes a connection to the relay when all is proved."""

    transport: Any
    factory: LinkFactory

    def __init__(self) -> None:
        self._received = bytearray()
        self._nonce = secrets.token_bytes(handshake.NONCE)
        self._theirs: bytes | None = None
        self._ticket: Ticket | None = None
        self._deciding: Deferred[bool] | None = None
        self._deadline: Any = None
        self._has_state = False
        self._is_given = False

    def connectionMade(self) -> None:
        """Wait for the handshake."""
        prepare(self.transport)
        if not self.factory.has_room(self):
            self.transport.abortConnection()
            return
        self._deadline = self.factory.reactor.callLater(TIMEOUT, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Check what the other relay proves."""
        self._received += data
        if self._deciding is not None:
            return  # the request waits
        try:
            self._advance()
        except (HandshakeFailed, ValueError) as error:
            self.factory.refused(self.transport.getPeer(), str(error))
            self.transport.abortConnection()

    def _advance(self) -> None:
        secret = self.factory.secret
        if self._theirs is None:
            theirs = handshake.parse_greeting(bytes(self._received[: handshake.GREETING]))
            if len(theirs) < handshake.NONCE:
                return
            del self._received[: handshake.GREETING]
            self._theirs = theirs
            proof = handshake.prove_home(secret, theirs, self._nonce)
            self.transport.write(self._nonce + proof)
        if self._ticket is None:
            found = handshake.parse_ticket(secret, self._theirs, self._nonce, self._received)
            if found is None:
                return
            self._ticket, size = found
            del self._received[:size]
        if self._ticket.peer:
            found_in = self.factory.search(self._ticket.peer)
            self.transport.write(json.dumps(found_in).encode())
            self.transport.loseConnection()
            return
        if self._ticket.size:
            self._receive_state(self._ticket)
            return
        header = parse_header(self._received) if self._received else None
        if header is None:
            return
        del self._received[: header.size]
        self.transport.pauseProducing()
        self._deciding = self.factory.decide(self._ticket)
        self._deciding.addCallback(self._decided, header)

    def _receive_state(self, ticket: Ticket) -> None:
        """Receive the state of a database, then the word that it is given to this relay."""
        mover = self.factory.mover
        if self._deadline is not None and not self._has_state:
            self._deadline.reset(MOVE_TIMEOUT)
        if ticket.size > mover.max_state:
            raise HandshakeFailed("the state of its database is too large")
        if not self._has_state:
            if len(self._received) < ticket.size:
                return
            state = bytes(self._received[: ticket.size])
            self._received.clear()
            self._has_state = mover.arrived(ticket.database, state)
            self.transport.write(handshake.ACCEPTED if self._has_state else handshake.REFUSED)
        elif self._received:
            self._is_given = True
            self._deciding = mover.given(ticket.database)
            self._deciding.addErrback(_log_failure).addCallback(self._told_given)

    def _told_given(self, is_home: bool) -> None:
        self.transport.write(handshake.ACCEPTED if is_home else handshake.REFUSED)
        self.transport.loseConnection()

    def _decided(self, is_home: bool, header: Header) -> None:
        if not self._stop_waiting():
            return  # the other relay has gone
        channel = self.factory.site.buildProtocol(header.source) if is_home else None
        if channel is None:
            self.transport.write(handshake.REFUSED)
            self.transport.loseConnection()
            return
        self.transport.write(handshake.ACCEPTED)
        connection = LinkedConnection(self.factory.wrapping, channel, header)
        transport = self.transport
        if isinstance(transport, ProtocolWrapper):  # TLS
            transport.wrappedProtocol = connection
        else:
            transport.protocol = connection
        connection.makeConnection(transport)
        transport.resumeProducing()
        if self._received:
            connection.dataReceived(bytes(self._received))

    def _stop_waiting(self) -> bool:
        """Return whether the connection is still there, and has not waited too long."""
        self.factory.left(self)
        deadline, self._deadline = self._deadline, None
        if deadline is None or not deadline.active():
            return False
        deadline.cancel()
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other relay has gone."""
        self._stop_waiting()
        if self._has_state and not self._is_given and self._ticket is not None:
            self.factory.mover.not_given(self._ticket.database)


def _log_failure(failure: Failure) -> bool:
    log.failure("taking over a database failed", failure)
    return False


class Mover(Protocol):
    """Takes over databases of other relays."""

    @property
    def max_state(self) -> int:
        """Bytes that the state of a database may have."""

    def arrived(self, database: str, state: bytes) -> bool:
        """Note a state; returns whether it is taken."""

    def given(self, database: str) -> Deferred[bool]:
        """Serve the database; fires with whether it is served here."""

    def not_given(self, database: str) -> None:
        """Forget its state."""


class LinkFactory(Factory):
    """Accepts the links of other relays.

    :param decide: tells whether the database of a ticket is served here, at its epoch.
    :param search: returns the databases that have a peer of an id here.
    :param mover: takes over databases of other relays.
    :param site: serves the clients' requests.
    :param refused: called with the address and the reason when a link is refused.
    """

    noisy = False
    protocol = LinkServer  # type: ignore[assignment]

    MAX_OPENING: Final = 1_000
    """Links whose handshake is under way. More are refused: none takes longer than milliseconds."""

    def __init__(
        self,
        secret: bytes,
        decide: Callable[[Ticket], Deferred[bool]],
        search: Callable[[str], list[str]],
        mover: Mover,
        site: Any,
        refused: Callable[[IAddress, str], object],
        reactor: Any,
    ) -> None:
        self.secret = secret
        self.decide = decide
        self.search = search
        self.mover = mover
        self.site = site
        self.reactor = reactor
        self._refused = refused
        self.wrapping = WrappingFactory(site)
        self._opening: set[LinkServer] = set()

    def has_room(self, link: LinkServer) -> bool:
        """Note a link whose handshake begins; returns whether there is room for it."""
        if len(self._opening) >= self.MAX_OPENING:
            return False
        self._opening.add(link)
        return True

    def left(self, link: LinkServer) -> None:
        """Note that the handshake of a link is over."""
        self._opening.discard(link)

    def refused(self, address: IAddress, reason: str) -> None:
        """Report that a link was refused."""
        self._refused(address, f"a link of {format_address(address)} was refused: {reason}")
