"""Composition: a configuration, and the service that serves a relay after it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from acebase_ipc.addresses import format_address, is_loopback
from acebase_ipc.dialect import Dialect
from acebase_ipc.errors import ConfigError
from acebase_ipc.intake import Intake
from acebase_ipc.limits import DEFAULT_MAX_PAYLOAD_TLS, Limits
from acebase_ipc.observer import Event, Severity
from acebase_ipc.peers import Client
from acebase_ipc.relay import Relay
from acebase_ipc.resources import Context, Root, parse_origins
from acebase_ipc.site import RelaySite
from acebase_ipc.tokens import Tokens
from acebase_ipc.websocket import RelayServerFactory

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9163
TICK = 1.0
"""Seconds between two looks at what has expired or fallen silent."""

SECURE_ENDPOINTS = frozenset({"ssl", "tls", "pfx", "txsni", "le", "lets"})
"""Endpoint prefixes that mean TLS: Twisted's, ours, and the best known plugins'."""

CLOSE_GOING_AWAY = 1001
SHUTDOWN_TIMEOUT = 4.0
"""Seconds that all peers together have to read what is left and to say goodbye."""

__version__ = version("acebase-ipc")

log = Logger()


@dataclass(frozen=True, kw_only=True)
class SSLConfig:
    """Where the key and certificate for TLS are, as PEM files or as a PFX bundle.

    :param key_path: a PEM file with the private key.
    :param cert_path: a PEM file with the certificate; default: in *key_path*, too.
    :param pfx_path: a PKCS#12 file with both, instead of the two.
    :param passphrase: the passphrase of the PKCS#12 file.
    :raises ConfigError: unless it is one of the two.
    """

    key_path: str | None = None
    cert_path: str | None = None
    pfx_path: str | None = None
    passphrase: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.key_path is None) == (self.pfx_path is None):
            raise ConfigError("ssl needs either key_path (and cert_path) or pfx_path")
        if self.pfx_path is not None and self.cert_path is not None:
            raise ConfigError("ssl: a PFX file holds its certificate: leave out cert_path")
        if self.key_path is not None and self.passphrase is not None:
            raise ConfigError("ssl: an encrypted PEM key is not supported: use a PFX file")

    def endpoint(self, port: int, host: str) -> str:
        """The endpoint string that listens on *port* of *host*."""
        if self.pfx_path is not None:
            arguments = {"path": self.pfx_path, "passphrase": self.passphrase}
            return _endpoint("pfx", port, host, arguments)
        arguments = {"privateKey": self.key_path, "certKey": self.cert_path}
        return _endpoint("ssl", port, host, arguments)


def _endpoint(kind: str, port: int, host: str, arguments: dict[str, str | None]) -> str:
    arguments = {"interface": host, **arguments}
    pairs = [f"{k}={quoteStringArgument(v)}" for k, v in arguments.items() if v is not None]
    return ":".join([kind, str(port), *pairs])


@dataclass(frozen=True, kw_only=True)
class AceBaseIPCServerConfig(Limits):
    """How a server is to run; the fields of :class:`Limits` belong to it, too.

    :param host: the address to listen on; ``""`` for all. Default: loopback.
    :param port: the TCP port, 0 for any free one, ``None`` to listen on none.
    :param ssl: listen with TLS.
    :param endpoints: Twisted endpoint strings to listen on, instead of the three.
    :param token: the secret that clients have to present; default: none.
    :param dialect: the dialect of all peers; default: recognise it.
    :param introductions: greet AceBase workers on each other's behalf, so that
        late joiners learn the subscriptions of the others.
    :param allow_origins: web origins whose pages may use the relay, like
        ``https://example.org``; ``*`` for all. Default: none.
    :raises ConfigError: for a value that cannot be used.
    """

    host: str = DEFAULT_HOST
    port: int | None = DEFAULT_PORT
    ssl: SSLConfig | None = None
    endpoints: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    dialect: Dialect | None = None
    introductions: bool = True
    allow_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        if isinstance(self.endpoints, str) or isinstance(self.allow_origins, str):
            raise ConfigError("endpoints and allow_origins are tuples of strings")
        if self.token is not None and not self.token.strip():
            raise ConfigError("token must not be empty: leave it out to need none")

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The endpoint strings to listen on."""
        if self.endpoints or self.port is None:
            return tuple(self.endpoints)
        if self.ssl is not None:
            return (self.ssl.endpoint(self.port, self.host),)
        return (_endpoint("tcp", self.port, self.host, {}),)

    @property
    def secure(self) -> bool:
        """Whether one of the ports is TLS."""
        return any(map(is_secure, self.descriptions))

    @property
    def payload_limit(self) -> int:
        """The effective maxPayload, in UTF-16 code units."""
        if self.max_payload is None and self.secure:
            return DEFAULT_MAX_PAYLOAD_TLS
        return super().payload_limit


def is_secure(description: str) -> bool:
    """Whether an endpoint string is one of TLS."""
    kind, _, rest = description.partition(":")
    return is_secure(rest) if kind == "haproxy" else kind in SECURE_ENDPOINTS


class LogObserver:
    """Counts what the relay reports, and logs what an operator should see.

    :ivar counts: how often each kind of event was reported, by its class's name.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def report(self, event: Event) -> None:
        """Count *event* and, unless it is of no concern, log it."""
        self.counts[type(event).__name__] += 1
        if event.severity is not Severity.DEBUG:
            values = {each.name: getattr(event, each.name) for each in fields(event)}
            log.emit(LogLevel.lookupByName(event.severity.value), event.text, **values)


class Listener(Service):
    """Listens on one endpoint while it runs.

    Unlike ``StreamServerEndpointService`` it knows where, which matters for
    port 0, and fails to start when it cannot listen.

    :ivar address: where it listens, while it does.
    """

    def __init__(self, description: str, site: RelaySite) -> None:
        """:raises ConfigError: if *description* is not an endpoint string."""
        self._description = redact(description)
        self._secure = is_secure(description)
        self._site = site
        try:
            self._endpoint = serverFromString(site.context.reactor, description)
        except Exception as error:  # parsers raise whatever their libraries do
            reason = str(error) or type(error).__name__
            raise ConfigError(f"cannot listen on {self._description!r}: {reason}") from error
        self._listening: Deferred[IListeningPort | None] | None = None
        self.address: IAddress | None = None

    def privilegedStartService(self) -> None:
        """Listen, while there may still be the privilege for a low port.

        :raises CannotListenError: if that is known at once.
        :raises ConfigError: if the endpoint string's values cannot be used.
        """
        if self._listening is not None:
            return
        failures: list[Failure] = []

        listening: Deferred[IListeningPort | None] = self._endpoint.listen(self._site).addCallback(
            self._started
        )
        listening.addErrback(failures.append)
        if failures and failures[0].check(CannotListenError):
            failures[0].raiseException()
        elif failures:  # OverflowError for a port, say
            raise ConfigError(f"cannot listen on {self._description!r}: {failures[0].value}")
        listening.addBoth(self._report_late, failures)
        self._listening = listening

    def startService(self) -> None:
        """Listen, unless that began earlier."""
        self.privilegedStartService()
        super().startService()

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        super().stopService()
        listening, self._listening = self._listening, None
        if listening is None:
            return succeed(None)
        self.address = None
        return listening.addCallback(lambda port: port.stopListening() if port else None)

    @staticmethod
    def _report_late(port: IListeningPort | None, failures: list[Failure]) -> IListeningPort | None:
        if failures:
            log.failure("cannot listen", failures[0])
        return port

    def _started(self, port: IListeningPort) -> IListeningPort | None:
        self.address = port.getHost()
        log.info("listening on {where}", where=self.describe())
        if not is_loopback(self.address):
            context = self._site.context
            if not self._secure:
                log.warn("{where} is open to the network without TLS", where=self.describe())
            if not context.tokens.required:
                log.warn("{where} is open to the network without a token", where=self.describe())
        return port

    def describe(self) -> str:
        """Where it listens, as a URL for a TCP port."""
        where = format_address(self.address)
        if isinstance(self.address, IPv4Address | IPv6Address):
            return f"{'wss' if self._secure else 'ws'}://{where}"
        return where


class AceBaseIPCServer(MultiService):
    """A relay for AceBase database processes, as a Twisted service.

    Attach it to an Application, or use :meth:`start` and :meth:`stop`. To
    serve it from a Site of your own, give it ``port=None``, mount
    :meth:`resource` and let the service run nevertheless: it keeps the time.

    :param config: how to run; default: on loopback, port 9163, without a token.
    :param reactor: default: the global reactor.
    :param clock: seconds of a clock that never jumps.
    :param wall: the time in seconds since 1970.
    :raises ConfigError: if an endpoint string cannot be used.
    """

    def __init__(
        self,
        config: AceBaseIPCServerConfig | None = None,
        reactor: Any = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.config = config = config or AceBaseIPCServerConfig()
        self.observer = LogObserver()
        self._clock = clock
        self._relay = Relay(config, self.observer, config.introductions)
        self._intake = Intake(self._relay, config.max_stored, reactor)
        self._factory = RelayServerFactory(
            self._relay, config, reactor, clock, lambda: int(wall() * 1000)
        )
        self._context = Context(
            relay=self._relay,
            factory=self._factory,
            intake=self._intake,
            tokens=Tokens(config.token),
            reactor=reactor,
            clock=clock,
            max_message=config.max_message,
            origins=parse_origins(config.allow_origins),
            dialect=config.dialect,
        )
        site = RelaySite(self._context, config.http_idle)
        self.listeners = [Listener(each, site) for each in config.descriptions]
        for listener in self.listeners:
            listener.setServiceParent(self)
        ticking = TimerService(TICK, self._tick)
        ticking.clock = reactor
        ticking.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Listen on every port.

        :raises CannotListenError: if that is not possible.
        """
        config = self.config
        source = (
            "configured"
            if config.max_payload is not None
            else ("the default with TLS" if config.secure else "the default without TLS")
        )
        log.info(
            "acebase-ipc {version}: token {token}, maxPayload {max_payload} UTF-16 code units"
            " ({source})",
            version=__version__,
            token="required" if self._context.tokens.required else "not required",
            max_payload=config.payload_limit,
            source=source,
        )
        super().privilegedStartService()

    def stopService(self) -> Deferred[Any]:
        """Stop listening, say goodbye to every peer with 1001, and end within 5 s."""
        stopped = [maybeDeferred(super().stopService)]
        self._relay.close(CLOSE_GOING_AWAY, "the server is shutting down")
        stopped.append(self._factory.wait_closed(SHUTDOWN_TIMEOUT))
        return DeferredList(stopped)

    def start(self) -> Deferred[None]:
        """Start without an Application; fires when all ports listen.

        Fails with ``CannotListenError`` if one cannot.
        """

        def start() -> None:
            self.privilegedStartService()
            self.startService()

        return maybeDeferred(start)

    def stop(self) -> Deferred[None]:
        """Stop without an Application; fires when all connections have ended."""
        return self.stopService().addCallback(lambda _: None)

    def resource(self) -> IResource:
        """The relay as a resource, to be mounted below any path of a Site.

        The Site's own limits come first: its ``timeout``, its access log, which
        shows tokens, and that it keeps whole bodies. In a Site with TLS give
        the server ``max_payload=16 * 2**20``: published AceBase clients cannot
        send larger messages over TLS.
        """
        return Root(self._context)

    def get_clients(self, dbname: str) -> tuple[Client, ...]:
        """The clients of the database with the wire name *dbname*, in the order they came."""
        return tuple(self._relay.clients(dbname))

    def _tick(self) -> None:
        self._relay.expire(self._clock())
        self._intake.retry()
        self._factory.sweep()


def redact(description: str) -> str:
    """An endpoint string without what is secret in it."""
    return re.sub(r"(passphrase=)(?:[^:\\]|\\.)*", r"\1…", description)
