"""What the admin endpoint asks of the server, and tells it to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRelay:
    """A relay of a cluster.

    :ivar address: where the other relays reach it.
    :ivar databases: how many it serves.
    :ivar free: how many connections it has room for.
    """

    id: str
    address: str
    databases: int
    free: int
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What a relay knows of its cluster.

    :ivar id: its own id.
    :ivar serving: whether its lease is valid.
    :ivar lease_left: seconds; 0 if it is over.
    :ivar store_answers: whether Redis has answered the last command.
    :ivar store_lag: seconds that Redis has taken to answer; ``None`` before the first answer.
    :ivar links: open connections of clients that are passed on to other relays.
    :ivar links_total: how many there have been.
    :ivar relays: all relays.
    :ivar homes: the epoch of each database that it serves.
    """

    id: str
    serving: bool
    lease_left: float
    store_answers: bool
    store_lag: float | None
    links: int
    links_total: int
    relays: tuple[ClusterRelay, ...]
    homes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server knows of itself and its process.

    :ivar version: its version.
    :ivar pid: the id of its process.
    :ivar hostname: the name of its host.
    :ivar python: the version of Python that runs it.
    :ivar started: when it was started, in milliseconds since 1970.
    :ivar uptime: for how many seconds it has been running.
    :ivar state: ``serving``, ``draining`` or ``closing``.
    :ivar is_listening: whether every port of the peers is open.
    :ivar endpoints: where peers connect to.
    :ivar token_required: whether peers have to present a token.
    :ivar websockets: the open WebSockets.
    :ivar http: the other open connections of the peers' ports.
    :ivar resident: bytes of memory that the process occupies; ``None`` if that is not known.
    :ivar limits: every limit by its name.
    :ivar certificates: from and until when those of all ports are valid, in seconds since 1970, by
        the path of the file.
    :ivar cluster: what it knows of its cluster; ``None`` if it is no member of one.
    """

    version: str
    pid: int
    hostname: str
    python: str
    started: int
    uptime: float
    state: str
    is_listening: bool
    endpoints: tuple[str, ...]
    token_required: bool
    websockets: int
    http: int
    resident: int | None
    limits: dict[str, float | None]
    certificates: dict[str, tuple[float, float]]
    cluster: ClusterFacts | None


class Server(Protocol):
    """A server, as the admin endpoint knows it."""

    def facts(self) -> Facts:
        """Return what it knows of itself now."""

    def kick(self, database: str, client_id: str, end_process: bool) -> bool:
        """Close the connection of a peer; returns whether there is such a peer.

        :param end_process: end its session, too, and refuse its next handshake with 500, which
            ends the process of a published client.
        """

    def drain(self, draining: bool) -> None:
        """Refuse new peers with 503 from now on, or accept them again."""

    def reload(self) -> bool:
        """Read the configuration again; returns whether it could be used."""

    def upgrade(self) -> Deferred[int]:
        """Let a new process take over; fires with its id, or fails with the reason."""
