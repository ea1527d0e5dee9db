"""The admin endpoint of a server: composes it, and does what it asks for."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from acebase_ipc.admin.access import AdminAccess
from acebase_ipc.admin.answers import respond_error
from acebase_ipc.admin.census import LatestCensus
from acebase_ipc.admin.control import Facts
from acebase_ipc.admin.counts import MetricsObserver
from acebase_ipc.admin.endpoint import Context
from acebase_ipc.admin.health import Canary, LoopLag
from acebase_ipc.admin.history import History
from acebase_ipc.admin.site import AdminSite
from acebase_ipc.admin.stream import Streams
from acebase_ipc.admin.turns import Turns
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.limits import Limits
from acebase_ipc.server.composition import Parts
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.expansion import expand
from acebase_ipc.server.handover.sockets import ADMIN, InheritedSockets
from acebase_ipc.server.handover.wire import HandOverError
from acebase_ipc.server.listener import Listener

__version__: Final = version("acebase-ipc")


class Admin:
    """The admin endpoint of one server, from :meth:`open` to :meth:`close`.

    :param control: tells of the server, and controls it.
    :param parts: of this server.
    :param history: receives the events of this server.
    :param counts: counts them.
    :param clock: returns monotonic seconds.
    :param wall: returns the seconds since 1970.
    :param inherited: the listening sockets of a predecessor.
    :raises ConfigError: if an endpoint string or the token file cannot be used.
    """

    def __init__(
        self,
        config: AceBaseIPCServerConfig,
        control: Control,
        parts: Parts,
        history: History,
        counts: MetricsObserver,
        observer: Observer,
        reactor: Any,
        clock: Callable[[], float],
        wall: Callable[[], float],
        inherited: InheritedSockets | None = None,
    ) -> None:
        from acebase_ipc.admin.metrics import Metrics, RelayMetrics  # loads prometheus_client

        self._control = control
        self._access = AdminAccess(Tokens(config.admin_rules()))
        self._lag = LoopLag(reactor, clock)
        self._canary = Canary(parts.relay, parts.rotation, clock)
        turns = Turns(parts.rotation, clock)
        context = Context(
            relay=parts.relay,
            server=control,
            access=self._access,
            refusals=Refusals(observer, reactor, clock, respond_error),
            history=history,
            lag=self._lag,
            canary=self._canary,
            turns=turns,
            census=LatestCensus(parts.relay.registry, turns, clock),
            reactor=reactor,
            clock=clock,
            allows_bodies=config.admin_bodies,
        )
        self._streams = Streams(context, wall)
        lags, loop_lag = parts.connections.lags, self._lag.histogram
        self._counts, self._lags = counts, (lags, loop_lag)
        metrics = RelayMetrics(parts.relay, control.facts, counts, lags, loop_lag)
        self._site = AdminSite(context, observer, self._streams, Metrics(context, metrics))
        self.listeners = [
            Listener(
                each,
                reactor,
                observer,
                is_admin=True,
                is_private=not config.admin_token_file,
                inherited=inherited,
            )
            for each in expand(config.parsed_admin, inherited, ADMIN)
        ]

    def open(self) -> list[Deferred[None]]:
        """Open the ports; each Deferred fires when one is open, or cannot be opened."""
        self._lag.start()
        return [each.open(self._site) for each in self.listeners]

    def describe(self) -> str:
        """Where the endpoint is, if its ports are open."""
        return ", ".join(each.describe() for each in self.listeners)

    def close(self) -> list[Deferred[Any]]:
        """Close the ports and every connection; each Deferred fires when a port is closed."""
        self._lag.stop()
        closing = [each.close() for each in self.listeners]
        self._site.close()
        return closing

    def tick(self, now: float) -> None:
        """Do what is to be done about once a second, in monotonic seconds."""
        self._canary.tick(now)
        self._site.sweep(now)

    def export(self) -> dict[str, Any]:
        """Return what was counted, as plain values, for the endpoint of a successor."""
        return {
            "events": self._counts.export(),
            "lags": [each.export() for each in self._lags],
        }

    def adopt(self, counted: dict[str, Any]) -> None:
        """Go on counting where the endpoint of a predecessor has ended: no counter falls."""
        self._counts.adopt(counted["events"])
        for lag, state in zip(self._lags, counted["lags"], strict=True):
            lag.adopt(state)

    def apply(self, limits: Limits, tokens: Tokens) -> None:
        """Show *limits*, and require one of *tokens*, from now on; ends the streams of others."""
        self._control.apply(limits)
        self._access.tokens = tokens
        self._streams.check_tokens()


class Control:
    """Tells the admin endpoint about a server, and does what it asks for.

    :param state: returns ``serving``, ``draining`` or ``closing``.
    :param listeners: of the peers' ports.
    :param clock: returns monotonic seconds.
    :param wall: returns the seconds since 1970.
    :param reload: reads the configuration again; returns whether it could be used.
    :param certificates: returns when those of all ports are valid; see :class:`Facts`.
    :param upgrade: lets a new process take over; ``None`` if that is not possible.
    """

    def __init__(
        self,
        parts: Parts,
        limits: Limits,
        state: Callable[[], str],
        listeners: list[Listener],
        clock: Callable[[], float],
        wall: Callable[[], float],
        reload: Callable[[], bool],
        certificates: Callable[[], dict[str, tuple[float, float]]],
        upgrade: Callable[[], Deferred[int]] | None,
    ) -> None:
        self._parts = parts
        self.apply(limits)
        self._state = state
        self._listeners = listeners
        self._clock = clock
        self._reload = reload
        self._certificates = certificates
        self._upgrade = upgrade
        self._begun = clock()
        self._started = int(wall() * 1000)

    def apply(self, limits: Limits) -> None:
        """Show these *limits* from now on."""
        self._limits = {**asdict(limits), "max_payload": limits.payload_limit}

    def facts(self) -> Facts:
        """Return what the server knows of itself now."""
        parts = self._parts
        return Facts(
            version=__version__,
            pid=os.getpid(),
            hostname=socket.gethostname(),
            python=platform.python_version(),
            started=self._started,
            uptime=self._clock() - self._begun,
            state=self._state(),
            is_listening=all(each.address is not None for each in self._listeners),
            endpoints=tuple(each.describe() for each in self._listeners if each.address),
            token_required=parts.access.tokens.required,
            websockets=parts.connections.count(),
            http=len(parts.site.channels),
            resident=resident_memory(),
            limits=self._limits,
            certificates=self._certificates(),
            cluster=None if parts.cluster is None else parts.cluster.facts(),
        )

    def kick(self, database: str, client_id: str, end_process: bool) -> bool:
        """Close the connection of a peer; returns whether there is such a peer."""
        peer = self._parts.relay.registry.find(database, client_id)
        if peer is None:
            return False
        self._parts.relay.sessions.kick(peer, self._clock(), end_process)
        return True

    def drain(self, draining: bool) -> None:
        """Refuse new peers with 503 from now on, or accept them again."""
        self._parts.admission.is_draining = draining
        if self._parts.cluster is not None:
            self._parts.cluster.drain(draining)

    def reload(self) -> bool:
        """Read the configuration again; returns whether it could be used."""
        return self._reload()

    def upgrade(self) -> Deferred[int]:
        """Let a new process take over; fires with its id, or fails with the reason."""
        if self._upgrade is None:
            return fail(HandOverError("the relay is a part of another program"))
        return self._upgrade()


def resident_memory() -> int | None:
    """Return the bytes of memory that this process occupies; ``None`` if that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
