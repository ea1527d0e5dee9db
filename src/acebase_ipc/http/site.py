"""A Site for the relay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.web.server import Site

from acebase_ipc.addresses import format_address, host_of
from acebase_ipc.http.channel import Phase
from acebase_ipc.http.endpoint import Context
from acebase_ipc.http.relay_channel import RelayChannel
from acebase_ipc.http.request import RelayRequest
from acebase_ipc.http.resources import Root
from acebase_ipc.http.sweep import Sweep
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.limits import Limits

SURPLUS: Final = 16
"""Connections beyond the limits, for health checks. The oldest makes way for another."""

CONNECTIONS_SHARE: Final = 8
"""HTTP connections may hold one eighth of ``max_memory`` beside bodies."""


class RelaySite(Site):
    """Serves a relay, and nothing else, on any number of ports.

    It writes no access log: a URL holds the token. It speaks HTTP/1.1 only, as
    a WebSocket needs it.

    :param observer: receives its events.
    :param websockets: how many WebSockets are open, from one host or, for ``None``, at all.
    :ivar channels: the open HTTP connections.
    """

    noisy = False
    protocol = RelayChannel  # type: ignore[assignment]  # no HTTP/2, so no wrapper for it
    requestFactory = RelayRequest

    def __init__(
        self,
        context: Context,
        limits: Limits,
        observer: Observer,
        websockets: Callable[[str | None], int],
    ) -> None:
        # The channels have deadlines of their own.
        super().__init__(Root(context), timeout=None, reactor=context.reactor)
        self.context = context
        self.observer = observer
        self.rotation = context.rotation
        self.apply(limits)
        self.channels: set[RelayChannel] = set()
        self._websockets = websockets
        self._hosts: Counter[str] = Counter()
        self._surplus: dict[RelayChannel, None] = {}  # in the order they came
        self._closing: Deferred[None] | None = None
        self._sweep = Sweep(context.rotation, self._enforce_memory_limit)

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on."""
        self.handshake_timeout = limits.handshake_timeout
        self.request_timeout = limits.request_timeout
        self.http_idle = limits.http_idle
        self._max_connections = limits.max_connections
        self._max_address_connections = limits.max_address_connections
        self._max_memory = limits.max_memory // CONNECTIONS_SHARE

    def acceptableProtocols(self) -> list[bytes]:
        """What may be negotiated over TLS."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Accept a connection; beyond the limits, only for a health check."""
        if self._closing is not None:
            return None
        channel: Any = super().buildProtocol(addr)
        is_full = len(self.channels) + self._websockets(None) >= self._max_connections
        channel.surplus = is_full or (
            addr not in self.context.proxies and not self._has_room(host_of(addr))
        )
        return channel

    def _has_room(self, host: str) -> bool:
        limit = self._max_address_connections
        return limit is None or self._hosts[host] + self._websockets(host) < limit

    def opened(self, channel: RelayChannel) -> None:
        """A connection was opened."""
        self.channels.add(channel)
        if channel.surplus:
            if len(self._surplus) >= SURPLUS:
                oldest = next(iter(self._surplus))
                del self._surplus[oldest]
                oldest.abort()
            self._surplus[channel] = None
        channel.host = host_of(channel.client)
        self._hosts[channel.host] += 1

    def closed(self, channel: RelayChannel) -> None:
        """A connection has ended, or has become a WebSocket."""
        if channel not in self.channels:
            return
        self.channels.remove(channel)
        self._surplus.pop(channel, None)
        self._uncount(channel)
        if self._closing is not None and not self.channels:
            self._closing.callback(None)

    def _uncount(self, channel: RelayChannel) -> None:
        self._hosts[channel.host] -= 1
        if not self._hosts[channel.host]:
            del self._hosts[channel.host]

    def attribute(self, channel: RelayChannel, host: str) -> bool:
        """Count the connection of a proxy for *host*; returns whether that has room for it."""
        if host == channel.host:
            return True
        self._uncount(channel)
        has_room = self._has_room(host)
        channel.host = host
        self._hosts[host] += 1
        return has_room

    @property
    def is_closing(self) -> bool:
        """Whether each connection ends with the answer that is being made."""
        return self._closing is not None

    @property
    def memory(self) -> int:
        """Bytes that the connections hold, beside bodies."""
        return sum(each.memory for each in self.channels)

    def sweep(self, now: float) -> None:
        """End the connections whose client is late; to be called about once a second."""
        self._sweep.start(self.channels, now)

    def _enforce_memory_limit(self, held: int) -> None:
        """End the connections that hold most, while all hold more than their share.

        :param held: bytes that they held when each was checked.
        """
        if held <= self._max_memory or (used := self.memory) <= self._max_memory:
            return
        refusal = Overloaded("The HTTP connections hold too much")
        for channel in sorted(self.channels, key=lambda each: each.memory, reverse=True):
            if used <= self._max_memory:
                return
            used -= channel.memory
            self.context.refusals.report(format_address(channel.client), refusal)
            channel.abort()

    def close(self, timeout: float) -> Deferred[None]:
        """Accept nothing more, let answers be completed, and end every connection.

        :param timeout: seconds after which the connections that are left are aborted.
        :returns: fires when all have ended.
        """
        self.context.streams.close()
        for channel in tuple(self.channels):
            if channel.phase in (Phase.FIRST, Phase.IDLE):
                channel.close()
        if not self.channels:
            return succeed(None)

        def abort() -> None:
            for channel in tuple(self.channels):
                channel.abort()

        def ended(_: None) -> None:
            self._closing = None
            if deadline.active():
                deadline.cancel()

        deadline = self.context.reactor.callLater(timeout, abort)
        self._closing = Deferred()
        return self._closing.addCallback(ended)

    def log(self, request: Any) -> None:
        """Write nothing."""
