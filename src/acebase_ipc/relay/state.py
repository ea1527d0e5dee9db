"""The state of a relay as plain values, for the process that goes on in its place.

Times are seconds: an *age* counts back from the moment of the export, what is *left* counts
from the moment in which the state is adopted. So another process can restore them with its own
clock. What several parts share, a message in many queues or a lock, is in one list, and is
meant by its index there.

Left out are what connections hold, warnings that were given, and caches.
"""

from __future__ import annotations

from typing import NamedTuple

Queue = tuple[tuple[int, str | None], ...]
"""Messages that wait: the index of each, and the id of the peer that has addressed it."""

Traffic = tuple[int, int, int, int]
"""Messages received, their bytes, messages sent, their bytes."""

Histogram = tuple[tuple[int, ...], float]
"""How many durations there were up to each bound and above all, and their sum in seconds."""


class LockState(NamedTuple):
    """A :class:`~acebase_ipc.relay.ledger.Lock`."""

    id: int
    master_id: int | None
    former_id: int
    holder: str
    granted: bytes
    age: float
    probe: bytes | None
    is_probed: bool
    release: bytes | None
    is_unwanted: bool
    is_unknown: bool


class RequestState(NamedTuple):
    """An open request.

    :ivar released: the envelope that has granted the lock which it releases, and its age.
    """

    id: bytes
    body: bytes
    age: float
    released: tuple[bytes, float] | None


class CoverState(NamedTuple):
    """A :class:`~acebase_ipc.relay.ledger.Cover`, but for what is open.

    :ivar is_current: whether the relay grants locks itself under it.
    """

    lock_id: int
    tid: bytes
    is_write: bool
    expires: bytes
    age: float
    is_kept: bool
    is_current: bool


class AccountState(NamedTuple):
    """An :class:`~acebase_ipc.relay.ledger.Account`.

    :ivar granted: each lock that the present master has granted: its id, the envelope, its age.
    :ivar locks: the indices of locks that a former master has granted, by the worker's id of each.
    :ivar about: the indices of locks that open requests are about, by the request's id.
    :ivar own: each lock that the relay has granted itself: its id, the envelope, its age, and the
        id of the lock that covers it.
    """

    requests: tuple[RequestState, ...]
    answered: tuple[bytes, ...]
    granted: tuple[tuple[int, bytes, float], ...]
    locks: tuple[tuple[int, int], ...]
    about: tuple[tuple[bytes, int], ...]
    resent: tuple[bytes, ...]
    covers: tuple[CoverState, ...]
    own: tuple[tuple[int, bytes, float, int], ...]


class SearchState(NamedTuple):
    """The search for lost locks in a database.

    :ivar workers: the workers whose locks were requested again, by tid.
    :ivar age: since it was first looked at; ``None`` if it was not yet.
    :ivar questions: the ids of locks that the master was asked about, by the request's id.
    :ivar moved: the ids of locks that it has perhaps moved.
    """

    workers: tuple[tuple[str, str], ...]
    age: float | None
    questions: tuple[tuple[bytes, int], ...]
    moved: tuple[int, ...]


class LedgerState(NamedTuple):
    """A :class:`~acebase_ipc.relay.ledger.Ledger`, whose accounts are those of the peers.

    :ivar locks: the locks that are meant by their index.
    :ivar large: bytes of the records that are not small.
    """

    locks: tuple[LockState, ...]
    own: tuple[tuple[bytes, int], ...]
    questions: tuple[tuple[bytes, int], ...]
    unwanted: tuple[int, ...]
    abandoned: tuple[bytes, ...]
    moves: tuple[bytes, ...]
    lost: tuple[tuple[str, bytes], ...]
    highest: int
    former_highest: int
    is_same_process: bool | None
    large: int
    search: SearchState | None


class PeerState(NamedTuple):
    """A :class:`~acebase_ipc.relay.peers.Peer`.

    :ivar state: the name of its session's state; ``GONE`` is never exported.
    :ivar may_run: whether its process may run, if its session is about to be ended.
    :ivar unsubscribed: what it may have unsubscribed from.
    """

    client_id: str
    dialect: str
    dialect_settled: bool
    restarts: bool
    connected: int
    address: str
    said_bye: bool
    state: str
    may_run: bool | None
    traffic: Traffic
    queue: Queue
    account: AccountState | None
    unsubscribed: tuple[bytes, ...]


class DatabaseState(NamedTuple):
    """A :class:`~acebase_ipc.relay.peers.Database`.

    :ivar warm_up: until its master has opened its files; ``None`` if it has.
    :ivar is_quiescing: whether requests that begin something new wait.
    """

    name: str
    peers: tuple[PeerState, ...]
    awaiting_master: Queue
    awaiting_age: float
    masters: int
    warm_up: float | None
    is_quiescing: bool
    traffic: Traffic
    ledger: LedgerState | None


class StoredState(NamedTuple):
    """A large message that waits to be downloaded.

    :ivar recipients: all its recipients.
    :ivar waiting: those that may download it, once more, too.
    """

    id: str
    database: str
    body: bytes
    recipients: tuple[bytes, ...]
    waiting: tuple[bytes, ...]
    left: float


class StoreState(NamedTuple):
    """A :class:`~acebase_ipc.relay.store.MessageStore`; downloads in progress are left out.

    :ivar fetched: the database, recipient and id of each download that may be repeated, and the
        time that is left for that.
    """

    messages: tuple[StoredState, ...]
    fetched: tuple[tuple[str, bytes, str, float], ...]
    reclaimable: tuple[str, ...]
    received: int
    downloaded: int


class FenceState(NamedTuple):
    """An id that is refused for the time that is left."""

    database: str
    client_id: str
    left: float
    is_reported: bool
    once: bool


class RelayState(NamedTuple):
    """All that a relay has to know to go on where another one has ended.

    :ivar messages: the texts of messages that wait in queues.
    :ivar left: databases without peers of which locks have to be released, each with the time
        that is left for that; ``None``: without limit.
    :ivar expiries: the sessions that expire: the database, the client id, the time that is left.
    :ivar ending: the peers whose session is about to be ended: the database and client id.
    :ivar conflicts: the ids that are in conflict: the database, the id, the time that is left.
    :ivar departed: the messages of peers that have left, by database.
    :ivar locks_answered: how many requests for a lock the relay has answered itself.
    :ivar own_prefix: the beginning of the ids of the relay's own requests.
    :ivar own_number: the number of the next one.
    :ivar own_lock: the relay's next own id of a lock.
    """

    messages: tuple[bytes, ...]
    databases: tuple[DatabaseState, ...]
    left: tuple[tuple[DatabaseState, float | None], ...]
    expiries: tuple[tuple[str, str, float], ...]
    ending: tuple[tuple[str, str], ...]
    fences: tuple[FenceState, ...]
    conflicts: tuple[tuple[str, bytes, float], ...]
    store: StoreState
    departed: tuple[tuple[str, Traffic], ...]
    lock_waits: Histogram
    answer_times: Histogram
    locks_answered: int
    own_prefix: bytes
    own_number: int
    own_lock: int
