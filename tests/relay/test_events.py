"""What the core reports."""

from __future__ import annotations

import inspect
import string
from dataclasses import fields
from typing import get_type_hints

import pytest

from acebase_ipc.relay import events as observer
from acebase_ipc.relay.events import (
    WAIT_FOR_MASTER,
    CertificateExpires,
    CertificateInvalid,
    ConnectionClosed,
    DialectDetected,
    DropReason,
    ExpiryReason,
    IdConflict,
    LockHeldLong,
    LocksFreed,
    MasterAbsent,
    MessageDropped,
    NullObserver,
    Observer,
    PeerJoined,
    PeerLeft,
    PeerReplaced,
    QueueDelivered,
    RelayEvent,
    SessionExpired,
    SessionResumed,
    SessionSuspended,
    Severity,
    SlowConsumer,
    TLSFailed,
)
from tests.relay.core import AT

WHO = ("mydb_data", "worker1")

LINES: list[tuple[RelayEvent, Severity, str]] = [
    (
        PeerJoined(*WHO, "acebase", AT),
        Severity.INFO,
        "mydb_data: worker1 joined from 192.0.2.1:50000 as acebase peer",
    ),
    (
        PeerLeft(*WHO, AT),
        Severity.INFO,
        "mydb_data: worker1 left, last connected from 192.0.2.1:50000",
    ),
    (
        PeerReplaced(*WHO, AT),
        Severity.INFO,
        "mydb_data: worker1 is replaced by a new connection from 192.0.2.1:50000",
    ),
    (
        ConnectionClosed(*WHO, AT, 1006, "it broke", False, 61.7),
        Severity.DEBUG,
        (
            "mydb_data: the connection of worker1 from 192.0.2.1:50000 has ended after 62 s:"
            " 1006, it broke (clean: False)"
        ),
    ),
    (
        TLSFailed(AT, "it speaks plain HTTP to a TLS port"),
        Severity.INFO,
        "192.0.2.1:50000: no TLS: it speaks plain HTTP to a TLS port",
    ),
    (
        CertificateExpires("/etc/cert.pem", "2026-12-01 00:00 UTC", 3),
        Severity.WARNING,
        "/etc/cert.pem: the certificate expires in 3 day(s), on 2026-12-01 00:00 UTC",
    ),
    (
        CertificateInvalid("/etc/cert.pem", "has expired on 2026-11-01 00:00 UTC"),
        Severity.ERROR,
        "/etc/cert.pem: the certificate has expired on 2026-11-01 00:00 UTC: clients refuse it",
    ),
    (DialectDetected(*WHO), Severity.DEBUG, "mydb_data: worker1 is an acebase peer"),
    (
        MessageDropped(*WHO, DropReason.EXPIRED),
        Severity.DEBUG,
        "mydb_data: 1 message(s) of worker1 dropped: it was not downloaded in time",
    ),
    (
        MessageDropped(*WHO, DropReason.UNKNOWN_ADDRESSEE, 3),
        Severity.DEBUG,
        "mydb_data: 3 message(s) of worker1 dropped: its recipient is not connected",
    ),
    (
        SlowConsumer(*WHO, backlog=5000, messages=7, address=AT),
        Severity.WARNING,
        (
            "mydb_data: worker1 from 192.0.2.1:50000 is disconnected: it has not read 5000 bytes"
            " in 7 messages"
        ),
    ),
    (
        SessionSuspended(*WHO, AT),
        Severity.INFO,
        (
            "mydb_data: the connection of worker1 from 192.0.2.1:50000 is lost; its session is"
            " suspended"
        ),
    ),
    (
        QueueDelivered(*WHO, 7, AT),
        Severity.INFO,
        f"mydb_data: 7 message(s) that waited for a master are delivered to worker1 from {AT}",
    ),
    (
        SessionExpired(*WHO, ExpiryReason.TIME, 7, 5000, WAIT_FOR_MASTER),
        Severity.WARNING,
        (
            "mydb_data: the session of worker1 has expired: it did not reconnect in time;"
            " 7 message(s) of 5000 bytes wait for the next master"
        ),
    ),
    (
        SessionResumed(*WHO, 7, AT),
        Severity.INFO,
        "mydb_data: worker1 from 192.0.2.1:50000 has resumed its session: 7 queued message(s)",
    ),
    (
        MasterAbsent(WHO[0], 2, 3),
        Severity.WARNING,
        (
            "mydb_data: 2 worker(s), no master (3 message(s) wait): start the process with"
            " role 'master'"
        ),
    ),
    (
        LocksFreed(*WHO, 2, "val/c", "transactNode"),
        Severity.WARNING,
        (
            "mydb_data: worker1 is gone and its 2 lock(s) are released, the first at 'val/c'"
            " (transactNode)"
        ),
    ),
    (
        LockHeldLong(*WHO, "write", "val/c", "transactNode", 12, "w2, w3"),
        Severity.WARNING,
        (
            "mydb_data: worker1 has held a write lock at 'val/c' (transactNode) for 12 s;"
            " waiting: w2, w3"
        ),
    ),
    (
        SessionExpired(*WHO, ExpiryReason.SIZE, messages=7, size=5000),
        Severity.WARNING,
        (
            "mydb_data: the session of worker1 has expired: its queue was full;"
            " 7 message(s) of 5000 bytes are dropped"
        ),
    ),
]


@pytest.mark.parametrize(("event", "severity", "line"), LINES)
def test_an_event_makes_a_line(event: RelayEvent, severity: Severity, line: str) -> None:
    values = {each.name: getattr(event, each.name) for each in fields(event)}
    assert (event.severity, event.text.format(**values)) == (severity, line)


def test_two_processes_under_one_id_are_an_error_with_both_addresses() -> None:
    event = IdConflict(*WHO, holder="192.0.2.1:1111", newcomer="192.0.2.2:2222")
    assert event.severity is Severity.ERROR
    line = event.text.format(
        database=event.database, peer=event.peer, holder=event.holder, newcomer=event.newcomer
    )
    assert "192.0.2.1:1111" in line
    assert "192.0.2.2:2222" in line


EVENTS = [
    each
    for _, each in inspect.getmembers(observer, inspect.isclass)
    if issubclass(each, RelayEvent) and "text" in vars(each)
]


@pytest.mark.parametrize("kind", EVENTS)
def test_the_line_needs_nothing_but_the_events_fields(kind: type[RelayEvent]) -> None:
    used = [name for _, name, _, _ in string.Formatter().parse(kind.text) if name]
    types = get_type_hints(kind)
    assert used
    for name in used:
        name, *attributes = name.split(".")
        assert name in {each.name for each in fields(kind)}
        assert all(hasattr(next(iter(types[name])), each) for each in attributes)


@pytest.mark.parametrize("kind", EVENTS)
def test_every_field_is_in_the_line(kind: type[RelayEvent]) -> None:
    used = {name.partition(".")[0] for _, name, _, _ in string.Formatter().parse(kind.text) if name}
    assert used == {each.name for each in fields(kind)}


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_is_a_value(kind: type[RelayEvent]) -> None:
    values = {each.name: f"a {each.name}" for each in fields(kind)}
    assert kind(**values) == kind(**values)
    assert hash(kind(**values)) == hash(kind(**values))
    for name in values:
        assert kind(**values) != kind(**values | {name: "other"})
        with pytest.raises(AttributeError):
            setattr(kind(**values), name, "other")


def test_severities_are_levels_of_a_log() -> None:
    assert [each.value for each in Severity] == ["debug", "info", "warn", "error"]


def test_the_null_observer_ignores_events() -> None:
    taken: Observer = NullObserver()
    taken.report(PeerLeft(*WHO, AT))
    assert not vars(taken)
