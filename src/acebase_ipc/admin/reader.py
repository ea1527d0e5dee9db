"""A reader of the live stream: what it wants, and how it is sent that.

The relay never waits for a reader: one that leaves :data:`MAX_UNSENT` bytes unread is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from acebase_ipc.addresses import format_address
from acebase_ipc.admin.endpoint import Context
from acebase_ipc.admin.history import Noted
from acebase_ipc.http.errors import BadRequest, WrongToken
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.relay.limits import MIB

MAX_UNSENT: Final = MIB
"""Bytes that a reader may leave unread."""

log = Logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a reader has asked for.

    :ivar database: the only database that is of interest.
    :ivar peer: the only peer that is of interest.
    :ivar type: the only type of messages that is of interest.
    """

    events: bool
    messages: bool
    status: bool
    bodies: bool
    database: str | None
    peer: str | None
    type: str | None

    def includes(self, noted: Noted[RelayEvent]) -> bool:
        """Return whether an event is of interest."""
        event = noted.event
        return (self.database is None or getattr(event, "database", None) == self.database) and (
            self.peer is None or getattr(event, "peer", None) == self.peer
        )

    def concerns(self, database: str, sender: str, recipient: str | None) -> bool:
        """Return whether a message is of interest, as far as its addresses show."""
        return (
            self.messages
            and (self.database is None or self.database == database)
            and (self.peer is None or self.peer in (sender, recipient))
        )


def wanted(query: dict[str, str]) -> Wanted:
    """Return what the *query* of a request asks for.

    :raises BadRequest: for a value that cannot be used.
    """

    def flag(name: str) -> bool:
        value = query.get(name, "0")
        if value not in ("0", "1"):
            raise BadRequest(f"{name} is 0 or 1")
        return value == "1"

    events, messages, status, bodies = map(flag, ("events", "messages", "status", "bodies"))
    if not (events or messages or status):
        events = status = True
    return Wanted(
        events=events,
        messages=messages,
        status=status,
        bodies=bodies,
        database=query.get("database"),
        peer=query.get("peer"),
        type=query.get("type"),
    )


@implementer(IPushProducer)
class Reader:
    """Somebody who reads the stream.

    :ivar replayed: the id of the last past event that it has; ``None`` if it needs no more of
        them, and is sent each event when it happens.
    """

    def __init__(self, request: Request, wanted: Wanted, context: Context) -> None:
        self.wanted = wanted
        self._request = request
        self._access = context.access
        self._reactor = context.reactor
        self._waiting: list[bytes] = []
        self._size = 0
        self._written = 0
        self._is_full = False
        self._call: IDelayedCall | None = None
        self.has_ended = False
        self.replayed: int | None = None

    @property
    def is_allowed(self) -> bool:
        """Whether the token that it has presented is valid now."""
        try:
            self._access.check_token(self._request)
        except WrongToken:
            return False
        return True

    @property
    def unsent(self) -> int:
        """Bytes that it has not read."""
        return self._size + self._written

    def begin(self, ended: Callable[[Reader], object]) -> None:
        """Begin the response; *ended* is called when the reader is gone."""

        def end(_: Failure | None) -> None:
            self.has_ended = True
            self._waiting.clear()
            self._size = 0
            if self._call is not None:
                self._call.cancel()
                self._call = None
            ended(self)

        self._request.notifyFinish().addBoth(end)
        self._request.registerProducer(self, True)
        self._channel.need_client()

    def send(self, data: bytes) -> None:
        """Send *data* at the end of this turn; cut a reader that has not read enough."""
        if self.has_ended:
            return
        self._waiting.append(data)
        self._size += len(data)
        if self.unsent > MAX_UNSENT:
            client = format_address(self._request.getClientAddress())
            log.info("{client} reads the live stream too slowly and is cut", client=client)
            self.abort()
        elif not self._is_full and self._call is None:
            self._call = self._reactor.callLater(0, self._flush)

    def abort(self) -> None:
        """End the connection at once."""
        if self._channel is not None:
            self._channel.abort()

    @property
    def _channel(self) -> Any:
        """The connection; ``None`` if it has ended."""
        return self._request.channel

    def _flush(self) -> None:
        self._call = None
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._written = len(data)
        self._request.write(data)
        if not self._is_full:
            self._written = 0

    # IPushProducer

    def pauseProducing(self) -> None:
        """Write nothing, as the connection accepts no more for now."""
        self._is_full = True

    def resumeProducing(self) -> None:
        """Write again, as the connection has sent what was written."""
        self._is_full = False
        self._written = 0
        if self._waiting and self._call is None:
            self._call = self._reactor.callLater(0, self._flush)

    def stopProducing(self) -> None:
        """Do nothing: the end of the request is awaited instead."""
