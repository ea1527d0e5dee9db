"""Events reported by the core, and the Observer that receives them.

The core does not log: it reports each event that an operator may want to know as a value.
Where the relay is composed it is decided what an event becomes: a log line, a counter, a
metric. Messages that are relayed are not reported, because they are too frequent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final, Protocol


class Severity(Enum):
    """How severe an event is for an operator."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RelayEvent:
    """Something that happened.

    :cvar severity: how severe it is for an operator.
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
    """A request or a handshake was answered with an error.

    :ivar address: where it came from: the host and port of the client.
    """

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{address} is refused: {status} {reason}"

    address: str
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class TokenGuessing(RelayEvent):
    """Many wrong tokens come from one address; its answers are delayed from now on.

    :ivar address: the host alone, because each connection has another port.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = "{address} presents many wrong tokens: answers to it are delayed"

    address: str


@dataclass(frozen=True, slots=True)
class RequestTimeout(RelayEvent):
    """A connection did not complete a request, or read the answer, in time."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = (
        "the connection of {address} is closed: a request, or reading its answer, took too long"
    )

    address: str


@dataclass(frozen=True, slots=True)
class TLSFailed(RelayEvent):
    """A connection speaks TLS to a port without TLS, or could not begin to speak it.

    :ivar reason: what is wrong: ours where it is known, else that of OpenSSL.
    """

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{address}: no TLS: {reason}"

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class CertificateExpires(RelayEvent):
    """A certificate of a port expires soon; reported at the start, after a reload and daily.

    :ivar path: the file that holds it.
    :ivar until: the end of its validity: day, time and time zone.
    :ivar days: the whole days until then.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = "{path}: the certificate expires in {days} day(s), on {until}"

    path: str
    until: str
    days: int


@dataclass(frozen=True, slots=True)
class CertificateInvalid(RelayEvent):
    """A certificate of a port is not valid now; reported at the start, after a reload and daily.

    :ivar path: the file that holds it.
    :ivar reason: since or until when it is not valid.
    """

    severity: ClassVar[Severity] = Severity.ERROR
    text: ClassVar[str] = "{path}: the certificate {reason}: clients refuse it"

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerJoined(PeerEvent):
    """A peer has joined its database."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} joined from {address} as {dialect} peer"

    dialect: str
    address: str


@dataclass(frozen=True, slots=True)
class PeerLeft(PeerEvent):
    """A peer has left; the others have been told."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} left, last connected from {address}"

    address: str


@dataclass(frozen=True, slots=True)
class PeerKicked(PeerEvent):
    """An administrator has closed the connection of a peer."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: the connection of {peer} from {address} is closed by an administrator"
    )

    address: str = ""


@dataclass(frozen=True, slots=True)
class PeerReplaced(PeerEvent):
    """A peer has connected again while its previous connection was open."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = "{database}: {peer} is replaced by a new connection from {address}"

    address: str


@dataclass(frozen=True, slots=True)
class DialectDetected(PeerEvent):
    """A peer's first envelope shows that it is an acebase peer."""

    text: ClassVar[str] = "{database}: {peer} is an acebase peer"


@dataclass(frozen=True, slots=True)
class ConnectionClosed(PeerEvent):
    """The WebSocket of a peer has ended.

    :ivar address: where it came from.
    :ivar code: the code of a close frame; 1006 if there was none.
    :ivar reason: the text of that frame, or why the connection has ended.
    :ivar is_clean: whether both ends have sent a close frame.
    :ivar seconds: for how long it was open.
    """

    text: ClassVar[str] = (
        "{database}: the connection of {peer} from {address} has ended after {seconds:.0f} s:"
        " {code}, {reason} (clean: {is_clean})"
    )

    address: str
    code: int
    reason: str
    is_clean: bool
    seconds: float


class DropReason(Enum):
    """Why a message was not delivered."""

    UNKNOWN_ADDRESSEE = "its recipient is not connected"
    BINARY = "binary messages are not relayed"
    EXPIRED = "it was not downloaded in time"
    RECIPIENT_GONE = "its recipient has left"
    SENDER_GONE = "its sender has left"
    FOREIGN_BYE = "it is a bye for another peer"
    UNSUBSCRIBED = "its recipient has unsubscribed from such events"


@dataclass(frozen=True, slots=True)
class MessageDropped(PeerEvent):
    """Messages to (or, if binary, from) a peer were not delivered."""

    text: ClassVar[str] = "{database}: {messages} message(s) of {peer} dropped: {reason.value}"

    reason: DropReason
    messages: int = 1


@dataclass(frozen=True, slots=True)
class OversizedMessage(PeerEvent):
    """A message that a peer has posted exceeds ``max_message``: it is lost.

    The npm package acebase ignores the status 413, so no process learns of it.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: a message of {peer} from {address} is lost: it exceeds max_message,"
        " {max_message} bytes"
    )

    max_message: int
    address: str


@dataclass(frozen=True, slots=True)
class ProtocolViolated(PeerEvent):
    """A peer has violated the protocol: its connection is closed."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = (
        "{database}: the connection of {peer} from {address} is closed: {code} {reason}"
    )

    code: int
    reason: str
    address: str


@dataclass(frozen=True, slots=True)
class KeepaliveTimeout(PeerEvent):
    """Nothing was received from a peer, nor an answer to a ping: it is disconnected."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} from {address} is disconnected: nothing was received for {seconds} s"
    )

    seconds: int
    address: str


@dataclass(frozen=True, slots=True)
class EvictedForMemory(PeerEvent):
    """The total memory exceeds ``max_memory``: the peer that holds most is disconnected."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} from {address} is disconnected: {size} bytes are held for it, and the"
        " total exceeds max_memory"
    )

    size: int
    address: str


@dataclass(frozen=True, slots=True)
class SlowConsumer(PeerEvent):
    """A peer does not read what it is sent: it is disconnected."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} from {address} is disconnected: it has not read {backlog} bytes in"
        " {messages} messages"
    )

    backlog: int
    messages: int
    address: str


@dataclass(frozen=True, slots=True)
class SessionSuspended(PeerEvent):
    """A peer's connection is lost; its session is suspended and the others are not told."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = (
        "{database}: the connection of {peer} from {address} is lost; its session is suspended"
    )

    address: str


@dataclass(frozen=True, slots=True)
class SessionResumed(PeerEvent):
    """A peer has resumed its session."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = (
        "{database}: {peer} from {address} has resumed its session: {messages} queued message(s)"
    )

    messages: int
    address: str


@dataclass(frozen=True, slots=True)
class QueueDelivered(PeerEvent):
    """A master is sent what has waited for it, or for the master before it."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = (
        "{database}: {messages} message(s) that waited for a master are delivered to {peer} from"
        " {address}"
    )

    messages: int
    address: str


@dataclass(frozen=True, slots=True)
class MasterAbsent(RelayEvent):
    """Workers have no master; messages that they address to it are queued until it joins."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {workers} worker(s), no master ({messages} message(s) wait): start the process"
        " with role 'master'"
    )

    database: str
    workers: int
    messages: int


class ExpiryReason(Enum):
    """Why a session has expired."""

    TIME = "it did not reconnect in time"
    SIZE = "its queue was full"


ARE_DROPPED: Final = "are dropped"
WAIT_FOR_MASTER: Final = "wait for the next master"


@dataclass(frozen=True, slots=True)
class SessionExpired(PeerEvent):
    """A suspended session has expired.

    :ivar fate: what becomes of the messages that were queued for the peer.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: the session of {peer} has expired: {reason.value};"
        " {messages} message(s) of {size} bytes {fate}"
    )

    reason: ExpiryReason
    messages: int
    size: int
    fate: str = ARE_DROPPED


@dataclass(frozen=True, slots=True)
class IdConflict(PeerEvent):
    """A second running process uses the id of a peer: it is refused."""

    severity: ClassVar[Severity] = Severity.ERROR
    text: ClassVar[str] = (
        "{database}: two processes use the id {peer}: {holder} keeps it, {newcomer} is refused."
        " Start only one process under this id. If these are two databases of one name, give one"
        " of them another wire name: ipc: {{ dbname: '…' }}"
    )

    holder: str
    newcomer: str


@dataclass(frozen=True, slots=True)
class LocksFreed(PeerEvent):
    """A peer is gone while it held locks: the relay releases them at the master."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} is gone and its {locks} lock(s) are released, the first at {path!r}"
        " ({comment})"
    )

    locks: int
    path: str
    comment: str


@dataclass(frozen=True, slots=True)
class ReturnRefused(PeerEvent):
    """A process comes back after its locks were released: it is refused, which ends it."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} from {address} is refused with 500, because its session has ended and"
        " its locks were released: its process ends and has to be started again"
    )

    address: str


@dataclass(frozen=True, slots=True)
class MasterRecovered(PeerEvent):
    """A master has arrived and is told of the locks that are held and of open requests."""

    severity: ClassVar[Severity] = Severity.INFO
    text: ClassVar[str] = (
        "{database}: {peer} is asked for {locks} lock(s) again, and is sent {requests} request(s)"
        " again"
    )

    locks: int
    requests: int


@dataclass(frozen=True, slots=True)
class LostLockReleased(PeerEvent):
    """A lock is found and released that a master has granted in an answer that was lost."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: a lock of {peer} at {path!r} ({comment}) is released: the master's answer was"
        " lost with its connection"
    )

    path: str
    comment: str


@dataclass(frozen=True, slots=True)
class ReleaseFailed(PeerEvent):
    """The master has refused to release a lock that the relay has asked it to release."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: the master has not released the lock of {peer} at {path!r} ({comment}); if it"
        " has that lock, writes wait until it expires"
    )

    path: str
    comment: str


@dataclass(frozen=True, slots=True)
class LockHeldLong(PeerEvent):
    """A peer has held a lock for longer than ``lock_warning`` while others wait."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} has held a {access} lock at {path!r} ({comment}) for {seconds} s;"
        " waiting: {waiting}"
    )

    access: str
    path: str
    comment: str
    seconds: int
    waiting: str


@dataclass(frozen=True, slots=True)
class RequestOpenLong(PeerEvent):
    """The master has not answered a request of a peer for longer than ``lock_warning``."""

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} has waited for {seconds} s for the master to answer a {request} at"
        " {path!r} ({comment})"
    )

    request: str
    path: str
    comment: str
    seconds: int


@dataclass(frozen=True, slots=True)
class NotQuiet(PeerEvent):
    """The relay stops although a peer has not ended its transactions within the time for that.

    :ivar locks: how many locks the peer has.
    :ivar requests: how many requests the master has not answered.
    :ivar path: what the oldest of these is about.
    :ivar comment: what AceBase calls the operation.
    :ivar seconds: its age.
    :ivar peers: how many such peers the database has.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "{database}: {peer} has {locks} lock(s) and {requests} open request(s) when the relay"
        " stops: /{path} ({comment}), for {seconds} s; {peers} peer(s) of the database are busy"
    )

    locks: int
    requests: int
    path: str
    comment: str
    seconds: int
    peers: int


@dataclass(frozen=True, slots=True)
class TooManyRequests(PeerEvent):
    """A peer has too many open requests and locks: it is disconnected."""

    severity: ClassVar[Severity] = Severity.ERROR
    text: ClassVar[str] = (
        "{database}: {peer} from {address} is disconnected: it has {requests} open requests and"
        " locks"
    )

    requests: int
    address: str


@dataclass(frozen=True, slots=True)
class StateRestored(RelayEvent):
    """The relay before this one has ended without warning, while workers were connected.

    Their processes end when they are refused, and their locks are released when the master of
    their database is back.
    """

    severity: ClassVar[Severity] = Severity.WARNING
    text: ClassVar[str] = (
        "the relay has crashed: {workers} worker(s) of {databases} database(s) that were connected"
        " are refused with 500, so that they start afresh, and {locks} lock(s) are released"
    )

    databases: int
    workers: int
    locks: int


class Observer(Protocol):
    """Receives the events of a relay."""

    def report(self, event: RelayEvent) -> None:
        """Receive *event*. Must not raise and must not call the relay."""


class GuardedObserver:
    """Passes events on to an observer whose failure must not stop the relay."""

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


class Observers:
    """Passes each event on to several observers, whatever one of them raises.

    :param failed: called in the ``except`` clause when one has raised.
    """

    def __init__(self, observers: Iterable[Observer], failed: Callable[[], object]) -> None:
        self._observers = tuple(GuardedObserver(each, failed) for each in observers)

    def report(self, event: RelayEvent) -> None:
        """Pass *event* on."""
        for each in self._observers:
            each.report(event)


class NullObserver:
    """Ignores all events."""

    def report(self, event: RelayEvent) -> None:
        """Ignore *event*."""
