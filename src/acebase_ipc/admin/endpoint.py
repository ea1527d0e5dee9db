"""The base of all resources of the admin endpoint, and what they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.admin.access import AdminAccess
from acebase_ipc.admin.census import LatestCensus, RelayCensus
from acebase_ipc.admin.control import Server
from acebase_ipc.admin.health import Canary, LoopLag
from acebase_ipc.admin.history import History
from acebase_ipc.admin.turns import Turns
from acebase_ipc.http.errors import BadRequest, MethodNotAllowed, RequestTooLarge, WrongToken
from acebase_ipc.http.responses import Refusals, respond
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.limits import KIB
from acebase_ipc.relay.relay import Relay

MAX_BODY: Final = 4096
"""Bytes of the body of a request: the longest one has about 30."""

SLICE: Final = 10 * KIB
"""Bytes of an answer that are made in one step, about: 1 ms."""

log = Logger()

READ: Final = (b"GET", b"HEAD")


@dataclass(frozen=True, slots=True)
class Context:
    """What all resources of the admin endpoint share.

    :ivar turns: divides the time among all that is asked for here.
    :ivar census: the figures of all peers.
    :ivar clock: monotonic seconds.
    :ivar allows_bodies: whether the bodies of messages may be shown.
    """

    relay: Relay
    server: Server
    access: AdminAccess
    refusals: Refusals
    history: History
    lag: LoopLag
    canary: Canary
    turns: Turns
    census: LatestCensus
    reactor: IReactorTime
    clock: Callable[[], float]
    allows_bodies: bool


class AdminRequest(Request):
    """A request of which no more than :data:`MAX_BODY` bytes of a body are kept.

    :ivar received: bytes of the body so far.
    """

    received = 0

    def gotLength(self, length: int | None) -> None:
        """Make room for a body, in memory."""
        super().gotLength(min(length or 0, MAX_BODY))

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a piece of the body, up to the limit."""
        super().handleContentChunk(data[: max(0, MAX_BODY - self.received)])
        self.received += len(data)


class Endpoint(Resource):
    """A path of the admin endpoint: checks who asks, and how, and answers refusals.

    :cvar needs_token: whether a token is needed where one is required.
    """

    needs_token = True

    def __init__(self, context: Context, methods: tuple[bytes, ...] = READ) -> None:
        super().__init__()
        self.context = context
        self._methods = methods

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Refuse every path below."""
        return Missing(self.context)

    def render(self, request: Request) -> bytes | int:
        """Answer a request whose body is complete."""
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        try:
            answer = self._checked(request)
        except RequestRefused as refusal:
            if isinstance(refusal, WrongToken):
                request.setHeader(b"WWW-Authenticate", b"Bearer")
            self.context.refusals.refuse(request, refusal)
            return NOT_DONE_YET
        if request.method == b"HEAD" and isinstance(answer, bytes):
            request.setHeader(b"Content-Length", b"%d" % len(answer))
            return b""
        return answer

    def _checked(self, request: Request) -> bytes | int:
        access = self.context.access
        access.check_page(request)
        if self.needs_token:
            access.check_token(request)
        self._check_method(request)
        if request.method == b"OPTIONS":
            request.setResponseCode(HTTPStatus.NO_CONTENT)
            return b""
        if isinstance(request, AdminRequest) and request.received > MAX_BODY:
            raise RequestTooLarge(MAX_BODY)
        if request.method == b"POST":
            access.check_intent(request)
        return self.answer(request)

    def _check_method(self, request: Request) -> None:
        methods = (*self._methods, b"OPTIONS")
        if request.method == b"OPTIONS" or request.method not in methods:
            request.setHeader(b"Allow", b", ".join(methods))
        if request.method not in methods:
            raise MethodNotAllowed

    def answer(self, request: Request) -> bytes | int:
        """Answer a request that has passed all checks.

        :raises RequestRefused: with the answer to give.
        """
        raise NotImplementedError


class Missing(Endpoint):
    """A path that does not exist, with any method."""

    def _check_method(self, request: Request) -> None:
        """Refuse every request.

        :raises NotFound: always.
        """
        raise NotFound


class Directory(Resource):
    """A path with others below it, and nothing else."""

    def __init__(self, context: Context, children: Mapping[str, IResource]) -> None:
        super().__init__()
        self._context = context
        for name, child in children.items():
            self.putChild(name.encode(), child)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Refuse every other path."""
        return Missing(self._context)

    def render(self, request: Request) -> bytes | int:
        """Refuse a request for the path itself."""
        return Missing(self._context).render(request)


Pieces = Generator[bytes, None, bytes]
"""Makes a piece of a text in each step, and returns the last one."""


def answer_in_steps(context: Context, request: Request, pieces: Pieces, doing: str) -> int:
    """Answer *request* with a body that is made in steps; it is sent when all of it is made.

    :param pieces: makes the body, and sets the status and headers before that.
    :param doing: what fails if making a piece raises an exception.
    """

    def parts() -> Pieces:
        while request.channel is not None:
            try:
                yield next(pieces)
            except StopIteration as end:
                return bytes(end.value)
        return b""  # the client is gone

    def answer(body: bytes) -> None:
        if request.channel is not None:
            _send(request, body)

    context.turns.make(parts(), answer, lambda failure: _fail(request, doing, failure))
    return NOT_DONE_YET


def answer_with_census(
    context: Context, request: Request, make: Callable[[RelayCensus], Pieces], doing: str
) -> int:
    """Answer *request* with a body that is made of the figures of all peers.

    :param make: makes the body, as for :func:`answer_in_steps`.
    """

    def answer(census: RelayCensus) -> None:
        answer_in_steps(context, request, make(census), doing)

    taken = context.census.get()
    taken.addCallbacks(answer, lambda failure: _fail(request, doing, failure))
    return NOT_DONE_YET


def _fail(request: Request, doing: str, failure: Failure) -> None:
    log.failure("{doing} failed", failure, doing=doing)
    with suppress(Exception):
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        _send(request, respond_error(request, status, f"{doing.capitalize()} failed"))


def _send(request: Request, body: bytes) -> None:
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()


def respond_in_steps(request: Request, pieces: Pieces) -> Pieces:
    """Set the status and headers of a response whose body is JSON, and make that."""
    respond(request, HTTPStatus.OK, "", b"application/json")
    return (yield from pieces)


def respond_json(request: Request, status: int, value: dict[str, Any]) -> bytes:
    """Set the status and headers of a response of one piece; returns its body."""
    return respond(request, status, encode(value), b"application/json")


def respond_error(request: Request, status: int, text: str) -> bytes:
    """Set the status and headers of a refusal; returns its body."""
    return respond_json(request, status, {"error": text})


def encode(value: dict[str, Any]) -> str:
    """Return *value* as JSON in one line of ASCII: ids may hold what UTF-8 cannot encode."""
    return json.dumps(value, separators=(",", ":"))


def encode_in_steps(first: dict[str, Any], lists: Mapping[str, Iterable[dict[str, Any]]]) -> Pieces:
    """Encode an object, as :func:`encode` does.

    :param first: its first members.
    :param lists: the other ones: lists of objects that are made when they are needed.
    """
    texts = [encode(first).removesuffix("}")]
    size, separator = len(texts[0]), "," if first else ""
    for name, objects in lists.items():
        texts.append(f'{separator}"{name}":[')
        separator = ""
        for each in objects:
            text = separator + encode(each)
            texts.append(text)
            size += len(text)
            separator = ","
            if size >= SLICE:
                yield "".join(texts).encode()
                texts, size = [], 0
        texts.append("]")
        separator = ","
    return "".join((*texts, "}")).encode()


def body_of(request: HTTPRequest, **known: type) -> dict[str, Any]:
    """Return the members of a request's body, an object; none if the body is empty.

    :param known: the members that it may have, with their types.
    :raises BadRequest: if it has others, or is no object.
    """
    assert request.content is not None
    try:
        members = json.loads(request.content.read() or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON") from None
    if not isinstance(members, dict):
        raise BadRequest("The body is not an object")
    for name, value in members.items():
        if name not in known:
            raise BadRequest(f"The body may hold only: {', '.join(known) or 'nothing'}")
        if not isinstance(value, known[name]):
            raise BadRequest(f"{name} is not a {known[name].__name__}")
    return members
