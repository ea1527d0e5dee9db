"""Turns status values and events into objects for JSON."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any

from acebase_ipc.admin.census import STATES, Figures, RelayCensus
from acebase_ipc.admin.control import Facts
from acebase_ipc.admin.health import LoopLag
from acebase_ipc.admin.history import Closed, Noted
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.store import StoredMessage
from acebase_ipc.relay.traffic import Traffic

Object = dict[str, Any]


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


def members(value: Any) -> Object:
    """Return the fields of a dataclass that holds plain values."""
    return {name: getattr(value, name) for name in _names(type(value))}  # type: ignore[arg-type]


def moment(seconds: float) -> str:
    """Return a time in seconds since 1970 as text of ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def server(relay: Relay, facts: Facts, lag: LoopLag, census: RelayCensus) -> Object:
    """Return the status of a server."""
    total, parts = census.total, relay.memory.parts()
    queues, stored = parts["queues"], parts["stored"] + parts["history"]
    ledger = parts["ledger"] + parts["unsubscribed"]
    used = sum(parts.values())
    return {
        "version": facts.version,
        "pid": facts.pid,
        "hostname": facts.hostname,
        "python": facts.python,
        "started": facts.started,
        "uptime": facts.uptime,
        "state": facts.state,
        "endpoints": facts.endpoints,
        "token_required": facts.token_required,
        "connections": {
            "websockets": facts.websockets,
            "http": facts.http,
            "max": facts.limits["max_connections"],
        },
        "peers": total.peers.total(),
        "databases": len(census.databases),
        "traffic": _traffic(total.traffic),
        "memory": {
            "used": used,
            "limit": relay.memory.limit,
            "queues": queues,
            "stored": stored,
            "connections": used - queues - stored - ledger,
            "ledger": ledger,
            "resident": facts.resident,
        },
        "loop_lag": {"last": lag.last, "max": lag.max},
        "locks": total.locks,
        "requests": total.requests,
        "lock_waits": {"count": sum(relay.lock_waits.counts), "sum": relay.lock_waits.sum},
        "lock_answers": {
            "master": sum(relay.lock_waits.counts),
            "relay": relay.lock_sessions.answered,
        },
        "limits": facts.limits,
    }


def cluster(facts: Facts) -> Object:
    """Return what is known of the cluster."""
    found = facts.cluster
    if found is None:
        return {"cluster": None}
    homes = [{"database": name, "epoch": epoch} for name, epoch in sorted(found.homes.items())]
    relays = [members(each) for each in found.relays]
    return {"cluster": {**members(found), "relays": relays, "homes": homes}}


def database(name: str, figures: Figures) -> Object:
    """Return a database in a list."""
    return {
        "name": name,
        "peers": figures.peers.total(),
        "connected": figures.connected,
        "has_master": figures.has_master,
        "awaiting_master": figures.awaiting,
        "locks": figures.locks,
        "requests": figures.requests,
        "memory": figures.memory,
        "traffic": _traffic(figures.traffic),
    }


def peer(peer: Peer) -> Object:
    """Return a peer."""
    connection, account = peer.connection, peer.account
    return {
        "id": peer.client_id,
        "dialect": peer.dialect.value,
        "state": STATES[peer.state],
        "is_master": peer.is_master,
        "address": peer.address,
        "connected": peer.connected,
        "silent": None if connection is None else connection.silence,
        "lag": None if connection is None else connection.lag,
        "is_full": connection is not None and connection.is_full,
        "queued": len(peer.queue),
        "queued_bytes": peer.queue.memory,
        "memory": peer.memory,
        "locks": 0 if account is None else account.held_count,
        "requests": 0 if account is None else len(account.requests),
        "traffic": _traffic(peer.traffic),
    }


def _traffic(traffic: Traffic) -> Object:
    return {
        "received": traffic.received,
        "received_bytes": traffic.received_bytes,
        "sent": traffic.sent,
        "sent_bytes": traffic.sent_bytes,
    }


def large_message(message: StoredMessage, now: float) -> Object:
    """Return a large message that waits to be downloaded."""
    return {
        "size": len(message.body),
        "recipients": [name.decode("utf-8", "replace") for name in message.recipients],
        "unfetched": message.unfetched,
        "expires": message.expires - now,
    }


def event(noted: Noted[RelayEvent]) -> Object:
    """Return an event."""
    values = members(noted.event)
    return {
        "id": noted.id,
        "time": moment(noted.time),
        "kind": type(noted.event).__name__,
        "severity": noted.event.severity.value,
        "database": values.get("database"),
        "peer": values.get("peer"),
        "text": noted.event.text.format(**values),
        "fields": {name: _plain(value) for name, value in values.items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):  # but a status of HTTP is a number
        return value.value if isinstance(value, int) else value.name.lower()
    return value


def closed(connection: Closed) -> Object:
    """Return a connection that has ended."""
    event = connection.event
    return {
        "id": connection.id,
        "time": moment(connection.time),
        "database": event.database,
        "peer": event.peer,
        "address": event.address,
        "code": event.code,
        "reason": event.reason,
        "clean": event.is_clean,
        "seconds": event.seconds,
    }
