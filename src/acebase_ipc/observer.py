"""How the core tells what happens, so that it need not log.

The core reports each thing an operator may want to know as a value. Whoever
composes the relay decides what becomes of it: a log line, a counter, a metric.
Ordinary relaying is not reported: it is too frequent to be told one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol


class Severity(Enum):
    """How much an event should worry an operator."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warn"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a peer of a database.

    :cvar severity: how much it should worry an operator.
    :cvar text: a format string for a log line, filled from the event's fields.
    """

    severity: ClassVar[Severity] = Severity.DEBUG
    text: ClassVar[str]

    database: str
    peer: str


@dataclass(frozen=True, slots=True)
class Joined(Event):
    """A peer has joined its database."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} joined as {dialect} peer"

    dialect: str


@dataclass(frozen=True, slots=True)
class Left(Event):
    """A peer has left; the others have been told."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} left"


@dataclass(frozen=True, slots=True)
class Replaced(Event):
    """A peer has connected again while its previous connection lived."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} is replaced by a new connection"


@dataclass(frozen=True, slots=True)
class Recognised(Event):
    """A peer's first envelope shows that it is an acebase peer."""

    text: ClassVar[str] = "{database}: {peer} is an acebase peer"


class Drop(Enum):
    """Why a message was not delivered."""

    UNKNOWN_ADDRESSEE = "its addressee is not connected"
    BINARY = "binary messages are not relayed"
    EXPIRED = "it was not fetched in time"
    RECIPIENT_GONE = "its recipient is gone"


@dataclass(frozen=True, slots=True)
class Dropped(Event):
    """Messages to (or, if binary, from) a peer were not delivered."""

    text: ClassVar[str] = "{database}: {messages} message(s) of {peer} dropped: {reason.value}"

    reason: Drop
    messages: int = 1


@dataclass(frozen=True, slots=True)
class Cut(Event):
    """A peer does not read what it is sent: its connection is cut."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} is cut: {backlog} bytes in {messages} messages wait for it unread"
    )

    backlog: int
    messages: int


class Observer(Protocol):
    """Learns what happens in the relay."""

    def report(self, event: Event) -> None:
        """Take note of *event*. Must not raise and must not call the relay."""


class NullObserver:
    """Takes note of nothing."""

    def report(self, event: Event) -> None:
        """Ignore *event*."""
