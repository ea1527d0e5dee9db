"""Listens on one endpoint."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from socket import socket
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.addresses import format_address, is_loopback
from acebase_ipc.errors import ConfigError
from acebase_ipc.proxy_protocol import ProxiedEndpoint
from acebase_ipc.relay.events import Observer, Refused
from acebase_ipc.server.certificates import RENEWABLE, Certificate, listen_with, with_tls
from acebase_ipc.server.endpoints import ParsedEndpoint
from acebase_ipc.server.expiry import CertificateDates
from acebase_ipc.server.handover.sockets import (
    ADMIN,
    PEERS,
    AdoptingReactor,
    InheritedSockets,
    ListeningSocket,
    place_of,
)
from acebase_ipc.server.inherited import InheritedEndpoint
from acebase_ipc.server.unix_socket import AdoptedEndpoint, LockedUnixEndpoint, UnixPort

ACCEPTS: Final = 32
"""Connections that a port accepts in one turn of the reactor: 3 ms. Twisted alone accepts 20
more in each turn as long as more are waiting."""

ADMIN_ACCEPTS: Final = 4
"""The same for a port of the admin endpoint, which has few users."""

ADMIN_PAUSE: Final = 0.005
"""Seconds for which such a port then accepts no more: a flood of connections takes a tenth of the
time of a core, not all that the peers leave. One takes 0.14 ms, which is 800 a second."""

log = Logger()


class Listener:
    """Listens on one endpoint, from :meth:`open` to :meth:`close`.

    Unlike ``StreamServerEndpointService`` it knows its address, which tells the number of
    a port 0, and it reports a failure to listen.

    :ivar address: where it listens, while it does.
    :ivar place: what its endpoint has in common with others that can have the same socket.
    """

    def __init__(
        self,
        parsed: ParsedEndpoint,
        reactor: Any,
        observer: Observer,
        proxies: Container[IAddress] = (),
        is_admin: bool = False,
        is_private: bool = False,
        inherited: InheritedSockets | None = None,
    ) -> None:
        """
        :param proxies: the proxies that are trusted.
        :param is_admin: whether it is a port of the admin endpoint.
        :param is_private: whether it must not be open to more than this machine.
        :param inherited: the sockets of a predecessor; the endpoint uses one of them, if it can.
        :raises ConfigError: if the endpoint cannot be made, for example of a missing file.
        """
        self._parsed = parsed
        role = ADMIN if is_admin else PEERS
        self.place = place_of(parsed, role)
        self._scheme = "http" if is_admin else "ws"
        self._is_private = is_private
        self._reactor = reactor
        self._accepts, self._pause = (ADMIN_ACCEPTS, ADMIN_PAUSE) if is_admin else (ACCEPTS, 0.0)

        def refused(address: IAddress, reason: str) -> None:
            observer.report(Refused(format_address(address), 400, reason))

        try:
            self._certificate = Certificate(parsed) if parsed.kind in RENEWABLE else None
            listening = None if inherited is None else inherited.take(parsed, role)
            self._endpoint = make_endpoint(
                parsed, reactor, proxies, refused, self._certificate, listening
            )
        except Exception as error:  # parsers raise whatever their libraries do
            raise self._unusable(error) from error
        self._port: IListeningPort | None = None
        self._opening: Deferred[None] | None = None
        self.address: IAddress | None = None

    def open(self, factory: IProtocolFactory) -> Deferred[None]:
        """Start to listen; fires as soon as connections are accepted.

        Fails with ``CannotListenError``, or with :exc:`ConfigError` if the endpoint's values
        cannot be used or it is not private, or with ``CancelledError`` if :meth:`close` is called
        before.
        """
        self._opening = opening = Deferred[None]()

        def opened(port: IListeningPort) -> Any:
            if self._opening is not opening:
                return port.stopListening()  # it was closed meanwhile
            self._opening = None
            if self._is_private and not is_loopback(port.getHost()):
                where = format_address(port.getHost())
                reason = ConfigError(f"{where} is open to the network: give a token file")
                opening.errback(self._unusable(reason))
                return port.stopListening()
            self._opened(port)
            opening.callback(None)
            return None

        def failed(failure: Failure) -> None:
            if self._opening is opening:
                self._opening = None
                if failure.check(CannotListenError):
                    opening.errback(failure)
                else:
                    opening.errback(self._unusable(failure.value))

        listening = maybeDeferred(self._endpoint.listen, factory)
        listening.addCallbacks(opened, failed)
        listening.addErrback(lambda failure: log.failure("closing a port failed", failure))
        return opening

    def _opened(self, port: IListeningPort) -> None:
        self._port = port
        if isinstance(port, Port):
            limit_accepts(port, self._accepts, self._pause, self._reactor)
        self.address = port.getHost()

    def close(self) -> Deferred[Any]:
        """Stop to listen; fires when the port is closed."""
        opening, self._opening = self._opening, None
        port, self._port = self._port, None
        self.address = None
        if opening is not None:
            opening.errback(CancelledError())
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    @property
    def certificates(self) -> tuple[CertificateDates, ...]:
        """When the certificates that new connections use are valid, by file."""
        return () if self._certificate is None else self._certificate.dates

    @property
    def port(self) -> Any:
        """The port of the system's socket, while it listens; ``None`` else."""
        port: Any = self._port
        return port.inner if isinstance(port, UnixPort) else port

    @property
    def is_secure(self) -> bool:
        """Whether its connections use TLS."""
        return self._parsed.is_secure

    def listening_socket(self) -> ListeningSocket | None:
        """Return the socket, for a successor; ``None`` if it does not listen.

        :raises ConfigError: if its port has no socket of its own.
        """
        if self._port is None:
            return None
        if not isinstance(getattr(self.port, "socket", None), socket):
            raise self._unusable(Exception("its kind cannot be handed over"))
        lock = self._port.lock if isinstance(self._port, UnixPort) else None
        return ListeningSocket(self.place, self.port.fileno(), lock)

    def release(self) -> None:
        """Close the descriptor of the socket, on which another process listens now."""
        port, self._port = self._port, None
        self.address = None
        if isinstance(port, UnixPort):
            port.release()
        elif isinstance(port, Port):
            port.stopReading()
            port.connected = False
            port.socket.close()
            port.factory.doStop()

    def pause(self) -> None:
        """Accept no connections until :meth:`resume`; they wait in the system's queue."""
        if self.port is not None:
            self.port.stopReading()

    def resume(self) -> None:
        """Accept connections again."""
        if self.port is not None:
            self.port.startReading()

    def read_certificate(self) -> Callable[[], object] | None:
        """Read the certificate again; returns a function that lets new connections use it.

        Returns ``None`` if the port has none that can be read again.

        :raises ConfigError: if it cannot be used.
        """
        certificate = self._certificate
        if certificate is None:
            return None
        try:
            return partial(certificate.use, certificate.read())
        except Exception as error:  # parsers raise whatever their libraries do
            raise self._unusable(error, "use the certificate of") from error

    def warn(self, requires_token: bool) -> None:
        """Warn if the port is open to more than this machine, with too little protection."""
        if self._parsed.kind == "unix" and self._parsed.mode & 0o007 and not requires_token:
            log.warn("{where} is open to every user without a token", where=self.describe())
        if is_loopback(self.address):
            return
        if not self._parsed.is_secure:
            log.warn("{where} is open to the network without TLS", where=self.describe())
        if not requires_token:
            log.warn("{where} is open to the network without a token", where=self.describe())

    def describe(self) -> str:
        """Where it listens, as a URL for a TCP port."""
        where = format_address(self.address)
        if isinstance(self.address, IPv4Address | IPv6Address):
            return f"{self._scheme}{'s' if self._parsed.is_secure else ''}://{where}"
        return where

    @property
    def url(self) -> str:
        """The URL for clients, while it listens."""
        if isinstance(self.address, UNIXAddress):
            return f"ws+{format_address(self.address)}"
        return self.describe()

    def _unusable(self, error: BaseException | None, doing: str = "listen on") -> ConfigError:
        reason = str(error) or type(error).__name__
        if reason.startswith("Unknown endpoint type"):
            reason += ": write 9163, or tcp:9163:interface=127.0.0.1"
        return ConfigError(f"cannot {doing} {self._parsed.redacted!r}: {reason}")


def limit_accepts(port: Port, most: int, pause: float, reactor: IReactorTime) -> None:
    """Let *port* accept *most* connections in one turn of the reactor.

    :param pause: seconds for which it accepts no more after so many.
    """
    accept = port.doRead

    def accept_some() -> None:
        port.numberAccepts = most if pause else min(port.numberAccepts, most)
        accept()
        if pause and port.numberAccepts > most:  # Twisted has found so many, and wants more
            port.stopReading()
            reactor.callLater(pause, go_on)

    def go_on() -> None:
        if port.connected:
            port.startReading()

    port.doRead = accept_some  # type: ignore[method-assign]  # the reactor calls nothing else


def make_endpoint(
    parsed: ParsedEndpoint,
    reactor: Any,
    proxies: Container[IAddress],
    refused: Callable[[IAddress, str], object],
    certificate: Certificate | None,
    inherited: ListeningSocket | None = None,
) -> IStreamServerEndpoint:
    """Return the endpoint that *parsed* describes; raises what its parser raises.

    :param certificate: that of an endpoint of one of the kinds :data:`RENEWABLE`.
    :param inherited: a socket that listens already.
    """
    endpoint: IStreamServerEndpoint
    is_given = parsed.kind == "unix" or parsed.is_inherited
    if inherited is not None and not is_given:
        reactor = AdoptingReactor(reactor, inherited.descriptor)
    if inherited is not None and is_given:
        endpoint = AdoptedEndpoint(
            reactor, inherited.descriptor, parsed.arguments.get("address"), inherited.lock
        )
        if certificate is not None:
            endpoint = with_tls(endpoint, certificate, reactor)
    elif certificate is not None:
        endpoint = listen_with(certificate, parsed, reactor)
    elif parsed.is_inherited:
        endpoint = InheritedEndpoint(reactor, parsed.arguments)
    else:
        endpoint = serverFromString(reactor, parsed.description)
    if parsed.kind == "unix" and inherited is None:
        lock = parsed.arguments.get("lockfile", "1") == "1"
        endpoint = LockedUnixEndpoint(endpoint, parsed.arguments["address"], lock)
    for _ in parsed.wrappers:
        endpoint = ProxiedEndpoint(endpoint, proxies, refused)
    return endpoint
