"""The TCP connections between relays: one for each client's connection that is passed on."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Container
from io import BytesIO
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as BaseProtocol
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.protocols.basic import FileSender
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.cluster import handshake
from acebase_ipc.cluster.handshake import HandshakeFailed, Ticket
from acebase_ipc.errors import ConfigError, IPCError
from acebase_ipc.proxy_protocol import render_header
from acebase_ipc.relay.limits import KIB

BUFFERED: Final = 128 * KIB
"""Bytes that a direction of a link is assumed to hold while its receiver does not read: a transport
reports that it is full at 64 KiB, and one read of the sender may follow."""

TIMEOUT: Final = 5.0
"""Seconds for the handshake of a link, and for the verdict of the home."""

CLOSE_TIMEOUT: Final = 10.0
"""Seconds in which a client has to read what is left for it when a link has ended."""

MOVE_TIMEOUT: Final = 60.0
"""Seconds for the state of a database on its way: a gigabyte needs 10 s over 1 Gbit/s."""


class LinkFailed(IPCError):
    """A relay cannot be reached, or does not serve the database; the text says why in one line."""


class LinkRefused(LinkFailed):
    """A relay that was reached does not serve the database, at least not yet."""


@implementer(IOpenSSLClientConnectionCreator)
class Tls:
    """The certificate that all relays of a cluster share, with its key.

    Each relay presents it, and accepts no other one.

    :param path: a PEM file with both.
    :raises ConfigError: if it cannot be used.
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                pem = file.read()
            own = PrivateCertificate.loadPEM(pem)
            self.options: Any = own.options(Certificate.loadPEM(pem))
        except Exception as error:  # whatever OpenSSL raises
            reason = getattr(error, "strerror", None) or "it holds no key and certificate in PEM"
            raise ConfigError(f"cluster_certificate: cannot use {path!r}: {reason}") from None

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        """Return the OpenSSL connection of a relay that asks."""
        from OpenSSL.SSL import Connection

        connection = Connection(self.options.getContext(), None)
        connection.set_connect_state()
        return connection


class Link(BaseProtocol, TimeoutMixin):
    """The end of a link at the relay that has the client.

    :ivar client: the client's transport, once both directions are passed on.
    :ivar relay: the id of the other relay, if that is known.
    """

    transport: Any

    def __init__(self, secret: bytes, ticket: Ticket, head: bytes, links: Links) -> None:
        """:param head: what follows the ticket: a PROXY header and the request."""
        self._secret = secret
        self._ticket = ticket
        self._head = head
        self._links = links
        self._nonce = secrets.token_bytes(handshake.NONCE)
        self._received = bytearray()
        self._is_proved = False
        self._is_lost = False
        self.verdict: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())
        self.client: Any = None
        self.is_full = False
        self.relay: str | None = None

    def connectionMade(self) -> None:
        """Begin the handshake."""
        prepare(self.transport)
        self.transport.write(handshake.greet() + self._nonce)
        if self._ticket.size:
            self.setTimeout(self._links.timeout)

    def dataReceived(self, data: bytes) -> None:
        """Check what the other relay proves, wait for its verdict, then pass on what comes."""
        if self.client is not None:
            self.client.write(data)
            return
        self._received += data
        try:
            self._advance()
        except HandshakeFailed as error:
            self._fail(LinkFailed(str(error)))

    def _advance(self) -> None:
        if not self._is_proved:
            if len(self._received) < handshake.ANSWER:
                return
            answer = bytes(self._received[: handshake.ANSWER])
            theirs = handshake.check_home(self._secret, self._nonce, answer)
            del self._received[: handshake.ANSWER]
            self._is_proved = True
            ticket = handshake.render_ticket(self._secret, self._nonce, theirs, self._ticket)
            if self._ticket.size:
                self.transport.write(ticket)
                self._send_state()
            else:
                self.transport.write(ticket + self._head)
        if self._received and not self._ticket.peer:
            verdict = bytes(self._received[:1])
            del self._received[:1]
            if verdict != handshake.ACCEPTED:
                self._fail(LinkRefused("it does not serve the database"))
                return
            self._head = b""
            self.setTimeout(None)
            if not self._ticket.size:
                self.transport.pauseProducing()  # until the client is there
            self.verdict.callback(verdict)

    def _send_state(self) -> None:
        """Send the state as fast as the other relay takes it, which counts as progress."""

        def progress(chunk: bytes) -> bytes:
            self.resetTimeout()
            return chunk

        sending = FileSender().beginFileTransfer(BytesIO(self._head), self.transport, progress)
        sending.addErrback(lambda _: None)  # connectionLost() tells

    def given(self) -> Deferred[bytes]:
        """Tell the other relay that the database is given to it; fires when it serves it.

        Fails with :exc:`LinkFailed`, at once if the connection was lost meanwhile.
        """
        self.verdict = Deferred(lambda _: self.transport.abortConnection())
        if self._is_lost:
            self.verdict.errback(LinkFailed("it has closed the connection"))
        else:
            self.setTimeout(self._links.timeout)
            self.transport.write(handshake.ACCEPTED)
        return self.verdict

    def callLater(self, period: float, func: Callable[[], object]) -> Any:
        """Call a function later; TimeoutMixin asks for it."""
        return self._links.reactor.callLater(period, func)

    def timeoutConnection(self) -> None:
        """Give up a relay that takes no more of a state, or does not answer."""
        self._fail(LinkFailed("it does not answer"))

    def _fail(self, error: LinkFailed) -> None:
        if not self.verdict.called:
            self.verdict.errback(error)
        self.transport.abortConnection()

    def pass_on(self, client: ClientEnd, transport: Any) -> None:
        """Pass on both directions from now on, between *transport* and the other relay."""
        self.client = transport
        client.link = self
        self._links.begun(self)
        transport.registerProducer(_Paused(self, self.transport), True)
        self.transport.registerProducer(_Paused(client, transport), True)
        if self._received:
            transport.write(bytes(self._received))
            self._received.clear()
        self.transport.resumeProducing()
        transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the client's connection, too."""
        self._is_lost = True
        self.setTimeout(None)
        self._links.ended(self)
        if not self.verdict.called and self._ticket.peer and reason.check(ConnectionDone):
            self.verdict.callback(bytes(self._received))
        elif not self.verdict.called:
            self.verdict.errback(LinkFailed("it has closed the connection"))
        client, self.client = self.client, None
        if client is not None:
            client.unregisterProducer()
            _end(client, reason)
            self._links.end_in_time(client)


class ClientEnd(BaseProtocol):
    """Passes on what a client sends."""

    is_full = False
    link: Link | None = None

    def dataReceived(self, data: bytes) -> None:
        """Pass on *data*."""
        if self.link is not None:
            self.link.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the link, too."""
        link, self.link = self.link, None
        if link is not None and link.client is not None:
            link.client = None
            link.transport.unregisterProducer()
            _end(link.transport, reason)


class _End(Protocol):
    is_full: bool


class _Paused:
    """A transport that is paused while the other one is full, and counts as holding bytes then."""

    def __init__(self, end: _End, transport: Any) -> None:
        self._end = end
        self._transport = transport

    def pauseProducing(self) -> None:
        """Read nothing: what was read has not been written yet."""
        self._end.is_full = True
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        self._end.is_full = False
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the other end learns that the connection is lost."""


def _end(transport: Any, reason: Failure) -> None:
    if reason.check(ConnectionDone):
        transport.loseConnection()
    else:
        transport.abortConnection()


def prepare(transport: Any) -> None:
    """Let small messages go at once, and find out if the other end is gone."""
    if ITCPTransport.providedBy(transport):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)


class Links:
    """Opens links to other relays, and knows those that pass on something.

    :param tls: the certificate, if links use TLS.
    :param timeout: seconds in which another relay has to accept a link; it may be suspended.
    """

    def __init__(
        self, secret: bytes, reactor: Any, tls: Tls | None, timeout: float = TIMEOUT
    ) -> None:
        self.timeout = timeout
        self._secret = secret
        self.reactor = reactor
        self._tls = tls
        self._open: dict[Link, None] = {}
        self._missing: set[Link] = set()
        self.total = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def memory(self) -> int:
        """Bytes that the links hold."""
        full = sum(
            each.is_full + getattr(each.client and each.client.protocol, "is_full", False)
            for each in self._open
        )
        return BUFFERED * full

    async def open(
        self, address: str, ticket: Ticket, client: IAddress, server: IAddress, request: bytes
    ) -> Link:
        """Open a link to the relay at *address*; it waits for :meth:`Link.pass_on`.

        :param client: the client's address.
        :param server: the address to which it has connected.
        :param request: what it has sent so far.
        :raises LinkFailed: if that relay cannot be reached, or does not serve the database.
        """
        link = Link(self._secret, ticket, render_header(client, server) + request, self)
        await self._ask(address, link)
        return link

    async def send_state(self, address: str, ticket: Ticket, state: bytes) -> Link:
        """Send the state of a database to the relay at *address*; :meth:`Link.given` follows.

        :raises LinkFailed: if that relay does not take it.
        """
        link = Link(self._secret, ticket, state, self)
        await self._ask(address, link, MOVE_TIMEOUT)
        return link

    async def search(self, address: str, peer: str) -> frozenset[str]:
        """Return the databases that have a peer of this id at the relay at *address*.

        :raises LinkFailed: if that relay cannot be reached.
        """
        answer = await self._ask(address, Link(self._secret, Ticket("", 0, peer), b"", self))
        try:
            return frozenset(map(str, json.loads(answer)))
        except (TypeError, ValueError):
            raise LinkFailed(f"the relay at {address} gives no answer") from None

    async def _ask(self, address: str, link: Link, timeout: float | None = None) -> bytes:
        timeout = self.timeout if timeout is None else timeout
        factory = Factory.forProtocol(lambda: link)
        factory.noisy = False
        connecting = self._endpoint(address).connect(factory)
        connecting.addTimeout(self.timeout, self.reactor)
        try:
            await connecting
            return await link.verdict.addTimeout(timeout, self.reactor)
        except TimeoutError:
            raise LinkFailed(f"the relay at {address} does not answer") from None
        except Exception as error:
            kind = LinkRefused if isinstance(error, LinkRefused) else LinkFailed
            raise kind(f"the relay at {address}: {error}") from None

    def _endpoint(self, address: str) -> IStreamClientEndpoint:
        host, _, port = address.rpartition(":")
        plain = HostnameEndpoint(self.reactor, host.strip("[]"), int(port))
        return plain if self._tls is None else wrapClientTLS(self._tls, plain, self.reactor)

    def begun(self, link: Link) -> None:
        """Note that *link* passes on something."""
        self._open[link] = None
        self.total += 1

    def ended(self, link: Link) -> None:
        """Note that *link* has ended."""
        self._open.pop(link, None)

    def end_in_time(self, client: Any) -> None:
        """End the connection of a client even if it does not read what is left for it."""
        self.reactor.callLater(CLOSE_TIMEOUT, client.abortConnection)

    def end_to_others(self, relays: Container[str]) -> None:
        """End the links to relays that are not among *relays* now, nor were at the last call.

        A relay may be missing once: when it has not joined yet a Redis that was restarted.
        """
        missing = {each for each in self._open if each.relay and each.relay not in relays}
        for link in missing & self._missing:
            link.transport.abortConnection()
        self._missing = missing

    def close(self) -> None:
        """End all links at once, and the clients' connections."""
        for link in tuple(self._open):
            link.transport.abortConnection()
