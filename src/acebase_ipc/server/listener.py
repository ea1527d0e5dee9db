"""Listens on one endpoint."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.addresses import format_address, is_loopback
from acebase_ipc.errors import ConfigError
from acebase_ipc.http.site import RelaySite
from acebase_ipc.server.endpoints import is_secure, redact, with_backlog

log = Logger()


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
            self._endpoint = serverFromString(site.context.reactor, with_backlog(description))
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
            if not context.access.tokens.required:
                log.warn("{where} is open to the network without a token", where=self.describe())
        return port

    def describe(self) -> str:
        """Where it listens, as a URL for a TCP port."""
        where = format_address(self.address)
        if isinstance(self.address, IPv4Address | IPv6Address):
            return f"{'wss' if self._secure else 'ws'}://{where}"
        return where
