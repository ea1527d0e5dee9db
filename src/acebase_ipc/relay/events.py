"""How the core tells what happens, so that it need not log.

The core reports each thing an operator may want to know as a value. Whoever
composes the relay decides what becomes of it: a log line, a counter, a metric.
Ordinary relaying is not reported: it is too frequent to be told one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol


class Severity(Enum):
    """How much an event should worry an operator."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RelayEvent:
    """Something that happened.

    :cvar severity: how much it should worry an operator.
    :cvar text: a format string for a log line, filled from the event's fields.
    """

    severity: ClassVar[Severity] = Severity.DEBUG
    text: ClassVar[str]


@dataclass(frozen=True, slots=True)
class PeerEvent(RelayEvent):
    """Something that happened to a peer of a database."""

    database: str
    peer: str


@dataclass(frozen=True, slots=True)
class Refused(RelayEvent):
    """A request or a handshake was answered with an error."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{address} is refused: {status} {reason}"

    address: str
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class TokenGuessing(RelayEvent):
    """Many wrong tokens come from one address; its answers are delayed from now on."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = "{address} keeps presenting wrong tokens"

    address: str


@dataclass(frozen=True, slots=True)
class RequestTimeout(RelayEvent):
    """A connection did not complete a request, or read the answer, in time."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{address} is closed: it took too long over a request or its answer"

    address: str


@dataclass(frozen=True, slots=True)
class PeerJoined(PeerEvent):
    """A peer has joined its database."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} joined as {dialect} peer"

    dialect: str


@dataclass(frozen=True, slots=True)
class PeerLeft(PeerEvent):
    """A peer has left; the others have been told."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} left"


@dataclass(frozen=True, slots=True)
class PeerReplaced(PeerEvent):
    """A peer has connected again while its previous connection lived."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} is replaced by a new connection"


@dataclass(frozen=True, slots=True)
class DialectDetected(PeerEvent):
    """A peer's first envelope shows that it is an acebase peer."""

    text: ClassVar[str] = "{database}: {peer} is an acebase peer"


class DropReason(Enum):
    """Why a message was not delivered."""

    UNKNOWN_ADDRESSEE = "its addressee is not connected"
    BINARY = "binary messages are not relayed"
    EXPIRED = "it was not fetched in time"
    RECIPIENT_GONE = "its recipient is gone"
    SENDER_GONE = "its sender is gone"
    FOREIGN_BYE = "it says goodbye for another peer"


@dataclass(frozen=True, slots=True)
class MessageDropped(PeerEvent):
    """Messages to (or, if binary, from) a peer were not delivered."""

    text: ClassVar[str] = "{database}: {messages} message(s) of {peer} dropped: {reason.value}"

    reason: DropReason
    messages: int = 1


@dataclass(frozen=True, slots=True)
class OversizedMessage(PeerEvent):
    """A message that a peer has posted exceeds ``max_message``: it is lost.

    The npm package acebase ignores the status 413 and tells nobody.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: a message of {peer} is lost: it exceeds max_message, {max_message} bytes"
    )

    max_message: int


@dataclass(frozen=True, slots=True)
class ProtocolViolated(PeerEvent):
    """A peer has broken the protocol: its connection is closed."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: the connection of {peer} is closed: {code} {reason}"

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeepaliveTimeout(PeerEvent):
    """A peer has not been heard and does not answer: its connection is cut."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = "{database}: {peer} is cut: it was silent for {seconds} s"

    seconds: int


@dataclass(frozen=True, slots=True)
class EvictedForMemory(PeerEvent):
    """All together needs too much memory: the peer that needs most is given up."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} is cut: {size} bytes wait for it or are half received from it,"
        " and all together exceed max_memory"
    )

    size: int


@dataclass(frozen=True, slots=True)
class SlowConsumer(PeerEvent):
    """A peer does not read what it is sent: its connection is cut."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} is cut: {backlog} bytes in {messages} messages wait for it unread"
    )

    backlog: int
    messages: int


@dataclass(frozen=True, slots=True)
class SessionSuspended(PeerEvent):
    """A peer's connection is lost; it is expected back and nobody is told."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: the connection of {peer} is lost; it is expected back"


@dataclass(frozen=True, slots=True)
class SessionResumed(PeerEvent):
    """A peer is back in its seat, or a master has come, and receives what was held for it."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} is back: {messages} held message(s) delivered"

    messages: int


@dataclass(frozen=True, slots=True)
class MasterAbsent(PeerEvent):
    """Messages are addressed to a master that is not there; they are held until it comes."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = "{database}: messages wait for {peer}, which is not connected"


class ExpiryReason(Enum):
    """Why a peer is not expected back any more."""

    TIME = "it did not return in time"
    SIZE = "too much waited for it"


@dataclass(frozen=True, slots=True)
class SessionExpired(PeerEvent):
    """A lost peer is not expected back any more: what waited for it is dropped.

    What was addressed to a master goes on waiting, unless there was too much.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} is given up: {reason.value};"
        " {messages} message(s) of {size} bytes waited for it"
    )

    reason: ExpiryReason
    messages: int
    size: int


@dataclass(frozen=True, slots=True)
class IdConflict(PeerEvent):
    """A second living process wants the id of a peer: it is refused."""

    severity: ClassVar[Severity] = Severity.ERROR
    text: ClassVar[str] = (
        "{database}: two processes want to be {peer}: {holder} is, {newcomer} is refused."
        " Start only one process under this id"
    )

    holder: str
    newcomer: str


class Observer(Protocol):
    """Learns what happens in the relay."""

    def report(self, event: RelayEvent) -> None:
        """Take note of *event*. Must not raise and must not call the relay."""


class GuardedObserver:
    """Passes everything on to an observer whose failure must not stop the relay."""

    def __init__(self, observer: Observer, failed: Callable[[], object]) -> None:
        """:param failed: called in the ``except`` clause when *observer* has raised."""
        self._observer = observer
        self._failed = failed

    def report(self, event: RelayEvent) -> None:
        """Pass *event* on."""
        try:
            self._observer.report(event)
        except Exception:
            self._failed()


class NullObserver:
    """Takes note of nothing."""

    def report(self, event: RelayEvent) -> None:
        """Ignore *event*."""
