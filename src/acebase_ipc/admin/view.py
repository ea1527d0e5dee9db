"""Turns status values and events into objects for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any

from acebase_ipc.admin.control import Facts
from acebase_ipc.admin.history import Closed, Noted
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.status import (
    DatabaseStatus,
    DatabaseSummary,
    PeerStatus,
    TrafficStatus,
)

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


def server(relay: Relay, facts: Facts, lag: Object, databases: Iterable[DatabaseSummary]) -> Object:
    """Return the status of a server.

    :param lag: of its event loop.
    :param databases: all of its databases.
    """
    summaries = tuple(databases)
    traffic = relay.registry.traffic_of_former
    total = {name: getattr(traffic, name) for name in _names(TrafficStatus)}
    for each in summaries:
        for name in total:
            total[name] += getattr(each.traffic, name)
    memory = relay.memory
    used, stored, ledger = memory.used, relay.store.stored, relay.registry.memory
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
        "peers": sum(each.peers for each in summaries),
        "databases": len(summaries),
        "traffic": total,
        "memory": {
            "used": used,
            "limit": memory.limit,
            "queues": memory.in_queues,
            "stored": stored,
            "connections": used - memory.in_queues - stored - ledger,
            "ledger": ledger,
            "resident": facts.resident,
        },
        "loop_lag": lag,
        "locks": sum(each.locks for each in summaries),
        "requests": sum(each.requests for each in summaries),
        "lock_waits": {"count": sum(relay.lock_waits.counts), "sum": relay.lock_waits.sum},
        "limits": facts.limits,
    }


def summary(database: DatabaseSummary) -> Object:
    """Return a database in a list."""
    return members(database) | {"traffic": members(database.traffic)}


def peer(status: PeerStatus) -> Object:
    """Return a peer."""
    return members(status) | {"traffic": members(status.traffic)}


def database(status: DatabaseStatus) -> Object:
    """Return a database with what belongs to it, except for its peers."""
    return {
        "summary": summary(status.summary),
        "locks": list(map(members, status.table.locks)),
        "requests": list(map(members, status.table.requests)),
        "large_messages": list(map(members, status.large)),
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
