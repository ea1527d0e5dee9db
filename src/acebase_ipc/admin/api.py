"""``/api/v1/``: the status as JSON, and what changes it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from itertools import islice
from typing import Any, Final

from twisted.web.resource import Resource
from twisted.web.server import Request

from acebase_ipc.admin import view
from acebase_ipc.admin.endpoint import (
    CHANGE,
    Context,
    Endpoint,
    JSONEndpoint,
    Missing,
    answer_in_steps,
    body_of,
    encode,
)
from acebase_ipc.admin.stream import Stream, Streams
from acebase_ipc.http.auth import raw_query
from acebase_ipc.http.errors import BadRequest
from acebase_ipc.http.responses import respond
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.protocol.handshake import parse_query
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.status import peer_status

MAX_LIMIT: Final = 1000
"""Events or connections of one answer."""

DEFAULT_LIMIT: Final = 100

SLICE: Final = 50
"""Members of a list that are shown in one step: about 1 ms."""

Make = Callable[[Request], dict[str, Any]]


class ReloadFailed(RequestRefused):
    """The tokens could not be read."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("Nothing is reloaded: the log says why")


class Description(Endpoint):
    """The OpenAPI document of all this."""

    def answer(self, request: Request) -> bytes | int:
        """Return the document."""
        text = files(__package__).joinpath("openapi.json").read_text("utf-8")
        return respond(request, HTTPStatus.OK, text, b"application/json")


@dataclass(frozen=True, slots=True)
class Listing:
    """An answer that is a list, above all.

    :ivar name: of the list.
    :ivar objects: its members, made when they are needed.
    :ivar rest: what else belongs to the answer.
    """

    name: str
    objects: Iterator[dict[str, Any]]
    rest: dict[str, Any]


class ListingEndpoint(Endpoint):
    """A path whose answer is made in slices, as a list may have thousands of members.

    :param make: returns the list for a request.
    """

    def __init__(self, context: Context, make: Callable[[Request], Listing]) -> None:
        super().__init__(context)
        self._make = make

    def answer(self, request: Request) -> bytes | int:
        """Begin to make the answer; it is sent when all of it is made."""
        pieces = _show(request, self._make(request))
        return answer_in_steps(self.context, request, pieces, "making a list")


def _show(request: Request, listing: Listing) -> Generator[bytes, None, bytes]:
    """Yield the pieces of an object with a list of many members."""
    head = encode(listing.rest).removesuffix("}")
    separator = "," if listing.rest else ""
    text = f'{head}{separator}"{listing.name}":['
    piece, between = respond(request, HTTPStatus.OK, text, b"application/json"), b""
    while some := [encode(each) for each in islice(listing.objects, SLICE)]:
        piece += between + ",".join(some).encode()
        if len(some) < SLICE:
            break
        yield piece
        piece, between = b"", b","
    return piece + b"]}"


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
                return self._get(lambda _: self._streams.server_status())
            case ["databases"]:
                return ListingEndpoint(self._context, self._databases)
            case ["databases", name]:
                return ListingEndpoint(self._context, lambda _: self._database(name))
            case ["events"]:
                return ListingEndpoint(self._context, self._events)
            case ["connections", "closed"]:
                return ListingEndpoint(self._context, self._closed)
            case ["stream"]:
                return Stream(self._context, self._streams)
            case ["databases", name, "peers", client_id, "kick"]:
                return self._post(lambda request: self._kick(request, name, client_id))
            case ["drain"]:
                return self._post(self._drain)
            case ["reload"]:
                return self._post(self._reload)
        return Missing(self._context)

    def _get(self, make: Make) -> Endpoint:
        return JSONEndpoint(self._context, make)

    def _post(self, make: Make) -> Endpoint:
        return JSONEndpoint(self._context, make, CHANGE)

    def _databases(self, request: Request) -> Listing:
        return Listing("databases", map(view.summary, self._streams.summaries()), {})

    def _database(self, name: str) -> Listing:
        relay = self._context.relay
        status = relay.status(name)
        if status is None:
            raise NotFound("No database of this name has a peer")
        peers = tuple(relay.registry.databases[name].peers.values())
        shown = (view.peer(peer_status(each)) for each in peers)
        return Listing("peers", shown, view.database(status))

    def _events(self, request: Request) -> Listing:
        query = parse_query(raw_query(request))
        limit = number(query, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
        after = number(query, "after", 0, 2**53, None)
        events = self._context.history.events(limit or DEFAULT_LIMIT, after)
        last = self._context.history.last if after is None else after
        return Listing(
            "events", map(view.event, events), {"last": events[-1].id if events else last}
        )

    def _closed(self, request: Request) -> Listing:
        query = parse_query(raw_query(request))
        limit = number(query, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
        closed = self._context.history.closed(limit or DEFAULT_LIMIT)
        return Listing("connections", map(view.closed, closed), {})

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
