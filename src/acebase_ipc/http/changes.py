"""``GET /<db>/changes``: the changes under a path as they happen, as server-sent events.

::

    retry: 2000                          (milliseconds until an EventSource connects again)

    event: ready                         from now on every change comes
    id: 3f0a…-17                         the cursor of what the reader has
    data: {}

    id: 3f0a…-18                         the event as a writer has sent it
    data: {"type":"event","from":…,"path":"orders","event":"mutations","data":{…}}

    event: gap                           changes are missing, and the stream ends
    data: {}
"""

from __future__ import annotations

from collections import deque
from http import HTTPStatus
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from acebase_ipc.http.auth import raw_query
from acebase_ipc.http.endpoint import Context, Endpoint
from acebase_ipc.http.errors import BadRequest
from acebase_ipc.http.responses import respond
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.protocol.handshake import parse_query
from acebase_ipc.protocol.paths import path_to_follow
from acebase_ipc.relay.feed import Feed
from acebase_ipc.relay.limits import KIB

SLICE: Final = 128 * KIB
"""Bytes written in one step, as those of a download."""

BATCH: Final = 16 * KIB
"""Bytes of changes that are written together, at least, while there are so many."""


@implementer(IPushProducer)
class ChangesStream:
    """Writes the changes of a feed as fast as the reader takes them.

    It holds one change and a batch at most, and readers share the changes. A reader that is too
    slow for the history is told of a gap, and one that reads nothing is cut as every other client.

    :param position: the number of the last event that the reader has; ``None``: it begins now.
    """

    def __init__(
        self, request: Request, database: str, feed: Feed, position: int | None, context: Context
    ) -> None:
        self._request: Any = request
        self._database = database
        self._feed = feed
        self._position = position
        self._is_ready = False
        self._context = context
        self._event = b""
        self._unwritten: deque[memoryview] = deque()
        self._is_paused = self._has_ended = self._is_ending = False

    def begin(self) -> None:
        """Write what there is, and go on when there is more."""
        self._request.notifyFinish().addBoth(lambda _: self._ended())
        self._request.registerProducer(self, True)
        getattr(self._request.channel, "need_client", lambda: None)()  # of another Site
        self._context.streams.add(self)
        self._feed.readers[self] = self._wake
        self._say(b"retry: 2000\n\n")
        self._wake()

    def _say(self, *texts: bytes) -> int:
        self._unwritten.extend(map(memoryview, texts))
        return sum(map(len, texts))

    def _wake(self) -> None:
        if not (self._is_paused or self._has_ended):
            self._context.rotation.add(self)

    def step(self) -> bool:
        """Write one slice; returns whether more is to be written."""
        if self._is_paused or self._has_ended:
            return False
        if not self._unwritten:
            size = 0
            while size < BATCH and (said := self._go_on()):
                size += said
        if self._unwritten:
            self._write()
        elif self._is_ending:
            self._has_ended = True
            self._request.unregisterProducer()
            self._request.finish()
            return False
        return bool(self._unwritten) or self._is_ending or self._has_more

    def _write(self) -> None:
        """Write what is unwritten, up to a slice."""
        pieces, room = [], SLICE
        while self._unwritten and room:
            piece = self._unwritten.popleft()
            if len(piece) > room:
                self._unwritten.appendleft(piece[room:])
                piece = piece[:room]
            pieces.append(piece)
            room -= len(piece)
        if not self._unwritten:
            self._event = b""
        self._request.write(b"".join(pieces))

    @property
    def _has_more(self) -> bool:
        return self._position is not None and self._position != self._feed.number

    def _go_on(self) -> int:
        """Say what comes next; returns its size, 0 if there is nothing."""
        feed = self._feed
        if self._position is None and not feed.awaited:
            self._position = feed.number
        if self._position is None or self._is_ending:
            return 0
        if not self._is_ready:
            self._is_ready = True
            return self._say(b"event: ready\nid: %b\ndata: {}\n\n" % self._cursor)
        if self._position < feed.floor:
            self._is_ending = True
            return self._say(b"event: gap\ndata: {}\n\n")
        if self._position == feed.number:
            return 0
        self._position += 1
        self._event = feed.event(self._position)
        return self._say(b"id: %b\ndata: " % self._cursor, self._event, b"\n\n")

    @property
    def held(self) -> bytes | None:
        """The change that is being written, if the history does not keep it any more."""
        is_kept = self._position is None or self._position > self._feed.floor
        return None if is_kept else self._event

    @property
    def _cursor(self) -> bytes:
        return self._feed.cursor(self._position or 0).encode()

    def _ended(self) -> None:
        self._has_ended = True
        self._unwritten.clear()
        self._event = b""
        self._feed.readers.pop(self, None)
        self._context.streams.discard(self)
        self._context.rotation.discard(self)

    # Stream

    @property
    def is_allowed(self) -> bool:
        """Whether the token of its request is valid now."""
        try:
            self._context.admission.check_token(self._request, self._database)
        except RequestRefused:
            return False
        return True

    def comment(self) -> None:
        """Show that the stream goes on."""
        if not (self._unwritten or self._is_paused or self._has_ended):
            self._request.write(b": the stream goes on\n\n")

    def end(self) -> None:
        """End the answer; its reader may ask again."""
        self._is_ending = True
        self._wake()

    def abort(self) -> None:
        """End the connection."""
        self._request.transport.abortConnection()

    # IPushProducer

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """The transport has written everything."""
        self._is_paused = False
        self._wake()

    def stopProducing(self) -> None:
        """The transport ends."""
        self._ended()


class Changes(Endpoint):
    """``GET /<db>/changes``: the changes under a path as they happen."""

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """Begin a stream, after the cursor that the reader has."""
        context = self.context
        context.admission.check_token(request, self._database)
        query = parse_query(raw_query(request))
        try:
            path = path_to_follow(query.get("path", ""))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        last = request.getHeader("Last-Event-ID")
        cursor = query.get("since") if last is None else last
        feed, position = context.relay.histories.follow(self._database, path, cursor)
        respond(request, HTTPStatus.OK, "", b"text/event-stream; charset=utf-8")
        ChangesStream(request, self._database, feed, position, context).begin()
        return NOT_DONE_YET
