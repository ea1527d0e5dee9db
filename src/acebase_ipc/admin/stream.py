"""``/api/v1/stream``: what happens, as it happens, as server-sent events.

While nobody reads, nothing is done; while somebody does, the work of each second is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from heapq import nlargest
from http import HTTPStatus
from itertools import starmap
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.admin import view
from acebase_ipc.admin.answers import Pieces, encode, encode_in_steps
from acebase_ipc.admin.census import Figures, RelayCensus
from acebase_ipc.admin.endpoint import Context, Endpoint
from acebase_ipc.admin.health import CANARY_DATABASE
from acebase_ipc.admin.history import Noted
from acebase_ipc.admin.reader import Reader, wanted
from acebase_ipc.http.auth import raw_query
from acebase_ipc.http.errors import Unauthorized
from acebase_ipc.http.responses import respond
from acebase_ipc.protocol.dialect import ENVELOPE_START
from acebase_ipc.protocol.handshake import parse_query
from acebase_ipc.protocol.messages import RELAY, Audience
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.relay.limits import KIB
from acebase_ipc.relay.peers import Peer

MAX_READERS: Final = 32
"""Readers at the same time; each may make the relay hold 1 MiB."""

MAX_MESSAGES: Final = 1000
"""Messages a second that are shown to all readers together, at about 20 µs: 2 % of the time.
Others are only counted."""

MAX_BODY: Final = 16 * KIB
"""Bytes of a body that are shown. Each KiB counts as one message more."""

MAX_DATABASES: Final = 200
"""Databases in a status of the stream: those with most peers."""

TICK: Final = 1.0  # seconds

COMMENT_INTERVAL: Final = 15
"""Seconds between two comments, which tell a reader and proxies that the stream goes on."""

REPLAY: Final = 50
"""Past events that a reader is sent in one step: about 2 ms."""

_TYPE = re.compile(re.escape(ENVELOPE_START) + rb"([^\"\\]{1,64})\"")

log = Logger()


def server_sent(kind: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """Return a server-sent event."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {encode(data)}\n\n".encode()


class Streams:
    """All readers of the stream, and what they are sent."""

    def __init__(self, context: Context, wall: Callable[[], float]) -> None:
        self._context = context
        self._wall = wall
        self._readers: dict[Reader, None] = {}
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = context.reactor
        self._ticks = 0
        self._budget = MAX_MESSAGES
        self._skipped = 0
        context.relay.memory.register("streams", lambda: sum(each.unsent for each in self._readers))

    def check_room(self) -> None:
        """Check that one more reader is allowed.

        :raises Overloaded: if there are too many.
        """
        if len(self._readers) >= MAX_READERS:
            raise Overloaded("There are too many readers of the stream")

    def add(self, reader: Reader, after: int | None) -> None:
        """Send *reader* what it wants, from now on.

        :param after: the id of the last event that it has; the later ones are sent, too.
        """
        history = self._context.history
        if not self._readers:
            history.subscribe(self._noted)
            self._ticks = 0
            self._ticking.start(TICK, now=False)
        self._readers[reader] = None
        reader.begin(self._remove)
        reader.send(b"retry: 2000\n\n")
        self._watch()
        if after is not None and reader.wanted.events:
            reader.replayed = after
            self._context.turns.do(lambda: self._replay(reader))
        elif reader.wanted.status:
            self._send_status([reader])

    def _replay(self, reader: Reader) -> bool:
        """Send *reader* some of the events that it has missed; returns whether others are left."""
        if reader.has_ended:
            return False
        missed = self._context.history.events(REPLAY, reader.replayed)
        for noted in missed:
            reader.replayed = noted.id
            if reader.wanted.includes(noted):
                reader.send(server_sent("event", view.event(noted), noted.id))
        if len(missed) == REPLAY:
            return True
        reader.replayed = None
        if reader.wanted.status:
            self._send_status([reader])
        return False

    def _remove(self, reader: Reader) -> None:
        self._readers.pop(reader, None)
        self._watch()
        if not self._readers and self._ticking.running:
            self._ticking.stop()
            self._context.history.unsubscribe(self._noted)

    def check_tokens(self) -> None:
        """End the streams whose token is not valid any more."""
        for reader in tuple(self._readers):
            if not reader.is_allowed:
                reader.abort()

    def _watch(self) -> None:
        watches = any(each.wanted.messages for each in self._readers)
        self._context.relay.router.watch = self._message if watches else None

    def _noted(self, noted: Noted[RelayEvent]) -> None:
        data = b""
        for reader in tuple(self._readers):
            wanted = reader.wanted
            if wanted.events and reader.replayed is None and wanted.includes(noted):
                data = data or server_sent("event", view.event(noted), noted.id)
                reader.send(data)

    def _message(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> None:
        if sender.database.name == CANARY_DATABASE or addressee is RELAY:
            return
        database = sender.database.name
        recipient = None if isinstance(addressee, Audience) else _text(addressee)
        found = _TYPE.match(body)
        kind = "text" if found is None else _text(found[1])
        readers = [
            each
            for each in self._readers
            if each.wanted.concerns(database, sender.client_id, recipient)
            and each.wanted.type in (None, kind)
        ]
        if not readers:
            return
        if self._budget <= 0:
            self._skipped += 1
            return
        shown = {
            "time": view.moment(self._wall()),
            "database": database,
            "from": sender.client_id,
            "to": recipient,
            "type": kind,
            "size": len(body),
        }
        self._budget -= len(readers)
        with_body = b""
        without = b""
        for reader in readers:
            if reader.wanted.bodies:
                if not with_body:
                    cut = body[:MAX_BODY]
                    self._budget -= len(cut) // KIB
                    with_body = server_sent("message", shown | {"body": _text(cut)})
                reader.send(with_body)
            else:
                without = without or server_sent("message", shown)
                reader.send(without)

    def _tick(self) -> None:
        self._ticks += 1
        self._budget = MAX_MESSAGES
        skipped, self._skipped = self._skipped, 0
        for reader in tuple(self._readers):
            if skipped and reader.wanted.messages:
                reader.send(server_sent("skipped", {"messages": skipped}))
            if self._ticks % COMMENT_INTERVAL == 0:
                reader.send(b": the stream goes on\n\n")
        readers = [each for each in self._readers if each.wanted.status]
        if readers and self._context.census.is_due:
            self._send_status(readers)

    def _send_status(self, readers: list[Reader]) -> None:
        """Send *readers* the status as soon as all peers are counted."""

        def show(census: RelayCensus) -> None:
            for name in {each.wanted.database for each in readers}:
                some = [each for each in readers if each.wanted.database == name]
                self._show_status(census, name, some)

        self._context.census.get().addCallbacks(show, _report_status)

    def _show_status(self, census: RelayCensus, name: str | None, readers: list[Reader]) -> None:
        """Send *readers* the status with one database, or by default those with most peers."""
        context = self._context

        def pieces() -> Pieces:
            status = view.server(context.relay, context.server.facts(), context.lag, census)
            shown = starmap(view.database, _chosen(census, name))
            return (yield from encode_in_steps({"status": status}, {"databases": shown}))

        def send(text: bytes) -> None:
            data = b"event: status\ndata: %b\n\n" % text
            for reader in readers:
                reader.send(data)

        context.turns.make(pieces(), send, _report_status)


def _report_status(failure: Failure) -> None:
    log.failure("{doing} failed", failure, doing="making the status")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _chosen(census: RelayCensus, name: str | None) -> list[tuple[str, Figures]]:
    """Return the database *name*, or by default those with most peers."""
    if name is None:
        return nlargest(
            MAX_DATABASES, census.databases.items(), key=lambda each: each[1].peers.total()
        )
    figures = census.databases.get(name)
    return [] if figures is None else [(name, figures)]


class Stream(Endpoint):
    """``GET /api/v1/stream``."""

    def __init__(self, context: Context, streams: Streams) -> None:
        super().__init__(context, (b"GET",))
        self._streams = streams

    def answer(self, request: Request) -> bytes | int:
        """Begin a stream that ends when its reader does."""
        asked = wanted(parse_query(raw_query(request)))
        if asked.bodies and not self.context.allows_bodies:
            raise Unauthorized("The bodies of messages are not shown without --admin-bodies")
        self._streams.check_room()
        respond(request, HTTPStatus.OK, "", b"text/event-stream; charset=utf-8")
        last = request.getHeader(b"Last-Event-ID") or b""
        after = int(last) if last.isdigit() and len(last) <= 16 else None
        self._streams.add(Reader(request, asked, self.context), after)
        return NOT_DONE_YET
