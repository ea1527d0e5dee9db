"""``/api/v1/``: the status as JSON, and what changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from importlib.resources import files
from itertools import starmap
from typing import Any, Final

from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.admin import view
from acebase_ipc.admin.answers import (
    Pieces,
    answer_in_steps,
    answer_with_census,
    body_of,
    encode_in_steps,
    respond_in_steps,
    respond_json,
)
from acebase_ipc.admin.census import Census, Figures, RelayCensus
from acebase_ipc.admin.endpoint import Context, Endpoint, Missing
from acebase_ipc.admin.stream import Stream, Streams
from acebase_ipc.http.auth import raw_query
from acebase_ipc.http.errors import BadRequest
from acebase_ipc.http.responses import LateAnswer, respond
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.protocol.handshake import parse_query
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.events import Severity
from acebase_ipc.relay.lock_table import LockRecords
from acebase_ipc.relay.peers import Database

MAX_LIMIT: Final = 1000
"""Events or connections of one answer."""

DEFAULT_LIMIT: Final = 100

RECORDS: Final = 512
"""Peers, locks and requests that are collected in one step: about 1 ms."""

Object = dict[str, Any]


class ReloadFailed(RequestRefused):
    """The tokens could not be read."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("Nothing is reloaded: the log says why")


class UpgradeFailed(RequestRefused):
    """The relay was not handed over to a new process."""

    status = HTTPStatus.CONFLICT


class Description(Endpoint):
    """The OpenAPI document of all this."""

    def answer(self, request: Request) -> bytes | int:
        """Return the document."""
        text = files(__package__).joinpath("openapi.json").read_text("utf-8")
        return respond(request, HTTPStatus.OK, text, b"application/json")


class Query(Endpoint):
    """A path whose answer is made in steps, as it may be long.

    :param begin: begins to make the answer to a request.
    """

    def __init__(self, context: Context, begin: Callable[[Request], int]) -> None:
        super().__init__(context)
        self._begin = begin

    def answer(self, request: Request) -> bytes | int:
        """Begin to make the answer; it is sent when all of it is made."""
        return self._begin(request)


class Command(Endpoint):
    """A path that changes something.

    :param execute: does it, and returns the answer.
    """

    def __init__(self, context: Context, execute: Callable[[Request], Object]) -> None:
        super().__init__(context, (b"POST",))
        self._execute = execute

    def answer(self, request: Request) -> bytes | int:
        """Do it."""
        return respond_json(request, HTTPStatus.OK, self._execute(request))


class Upgrade(Endpoint):
    """A path that lets a new process take over the relay; this one answers."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, (b"POST",))

    def answer(self, request: Request) -> bytes | int:
        """Begin; the answer follows when the new process has taken over, or has failed."""
        body_of(request)
        late = LateAnswer(request)

        def upgraded(pid: int) -> None:
            if late.is_awaited:
                late.give(respond_json(request, HTTPStatus.OK, {"pid": pid}))

        def failed(failure: Failure) -> None:
            if late.is_awaited:
                self.context.refusals.refuse(request, UpgradeFailed(str(failure.value)))

        self.context.server.upgrade().addCallbacks(upgraded, failed)
        return NOT_DONE_YET


class API(Resource):
    """``/api/v1/``."""

    isLeaf = True

    def __init__(self, context: Context, streams: Streams) -> None:
        super().__init__()
        self._context = context
        self._streams = streams

    def render(self, request: Request) -> bytes | int:
        """Answer a request for one of the paths below."""
        return self._find(request).render(request)

    def _find(self, request: Request) -> Endpoint:
        assert request.postpath is not None
        match [each.decode("utf-8", "surrogateescape") for each in request.postpath]:
            case ["openapi.json"]:
                return Description(self._context)
            case ["status"]:
                return self._get(self._status)
            case ["cluster"]:
                return self._get(self._cluster)
            case ["databases"]:
                return self._get(self._databases)
            case ["databases", name]:
                return self._get(lambda request: self._database(request, name))
            case ["events"]:
                return self._get(self._events)
            case ["connections", "closed"]:
                return self._get(self._closed)
            case ["stream"]:
                return Stream(self._context, self._streams)
            case ["databases", name, "peers", client_id, "kick"]:
                return self._post(lambda request: self._kick(request, name, client_id))
            case ["drain"]:
                return self._post(self._drain)
            case ["reload"]:
                return self._post(self._reload)
            case ["upgrade"]:
                return Upgrade(self._context)
        return Missing(self._context)

    def _get(self, begin: Callable[[Request], int]) -> Endpoint:
        return Query(self._context, begin)

    def _post(self, execute: Callable[[Request], Object]) -> Endpoint:
        return Command(self._context, execute)

    def _list(self, request: Request, name: str, objects: Iterable[Object], **rest: Any) -> int:
        pieces = encode_in_steps(rest, {name: objects})
        return answer_in_steps(
            self._context, request, respond_in_steps(request, pieces), "making a list"
        )

    def _status(self, request: Request) -> int:
        def make(census: RelayCensus) -> Pieces:
            context = self._context
            status = view.server(context.relay, context.server.facts(), context.lag, census)
            return (yield from respond_in_steps(request, encode_in_steps(status, {})))

        return answer_with_census(self._context, request, make, "making the status")

    def _cluster(self, request: Request) -> int:
        shown = view.cluster(self._context.server.facts())
        pieces = respond_in_steps(request, encode_in_steps(shown, {}))
        return answer_in_steps(self._context, request, pieces, "showing the cluster")

    def _databases(self, request: Request) -> int:
        def make(census: RelayCensus) -> Pieces:
            shown = starmap(view.database, census.databases.items())
            return respond_in_steps(request, encode_in_steps({}, {"databases": shown}))

        return answer_with_census(self._context, request, make, "making a list")

    def _database(self, request: Request, name: str) -> int:
        database = self._context.relay.registry.databases.get(name)
        if database is None:
            raise NotFound("No database of this name has a peer")
        pieces = respond_in_steps(request, self._show(database))
        return answer_in_steps(self._context, request, pieces, "making a list")

    def _show(self, database: Database) -> Pieces:
        now = self._context.clock()
        census, records = Census([database], now), LockRecords(now)
        peers = tuple(database.peers.values())
        while census.step():
            yield b""
        collected = 0
        for each in peers:
            collected += 1 + records.collect(each)
            if collected >= RECORDS:
                yield b""
                collected = 0
        figures = census.databases.get(database.name) or Figures()
        large = tuple(self._context.relay.store.messages_of(database.name))
        lists = {
            "peers": map(view.peer, peers),
            "locks": map(view.members, records.locks()),
            "requests": map(view.members, records.requests()),
            "large_messages": (view.large_message(each, now) for each in large),
        }
        summary = view.database(database.name, figures)
        return (yield from encode_in_steps({"summary": summary}, lists))

    def _events(self, request: Request) -> int:
        query = parse_query(raw_query(request))
        limit = number(query, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
        after = number(query, "after", 0, 2**53, None)
        lowest = severity(query, "level")
        events = self._context.history.events(limit or DEFAULT_LIMIT, after, lowest)
        last = self._context.history.last if after is None else after
        last = events[-1].id if events else last
        return self._list(request, "events", map(view.event, events), last=last)

    def _closed(self, request: Request) -> int:
        query = parse_query(raw_query(request))
        limit = number(query, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
        closed = self._context.history.closed(limit or DEFAULT_LIMIT)
        return self._list(request, "connections", map(view.closed, closed))

    def _kick(self, request: Request, name: str, client_id: str) -> dict[str, Any]:
        end_process = body_of(request, end_process=bool).get("end_process", False)
        if not self._context.server.kick(name, client_id, end_process):
            raise NotFound("This database has no peer of this id")
        return {"kicked": True}

    def _drain(self, request: Request) -> dict[str, Any]:
        draining = body_of(request, drain=bool).get("drain")
        if draining is None:
            raise BadRequest("drain is missing")
        self._context.server.drain(draining)
        return {"draining": draining}

    def _reload(self, request: Request) -> dict[str, Any]:
        body_of(request)
        if not self._context.server.reload():
            raise ReloadFailed
        return {"reloaded": True}


def number(
    query: dict[str, str], name: str, lowest: int, highest: int, default: int | None
) -> int | None:
    """Return the whole number *name* of a query.

    :raises BadRequest: if it is no number from *lowest* to *highest*.
    """
    text = query.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 16 and lowest <= int(text) <= highest:
        return int(text)
    raise BadRequest(f"{name} is not a whole number from {lowest} to {highest}")


def severity(query: dict[str, str], name: str) -> Severity:
    """Return the severity *name* of a query; default: the lowest.

    :raises BadRequest: if it is none.
    """
    try:
        return Severity(query.get(name, Severity.DEBUG.value))
    except ValueError:
        names = ", ".join(each.value for each in Severity)
        raise BadRequest(f"{name} is none of {names}") from None
