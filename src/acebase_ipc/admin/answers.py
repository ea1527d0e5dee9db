"""How the answers of the admin endpoint are made, at once or in steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.admin.census import RelayCensus
from acebase_ipc.admin.endpoint import Context
from acebase_ipc.http.errors import BadRequest
from acebase_ipc.http.responses import respond
from acebase_ipc.relay.limits import KIB

SLICE: Final = 10 * KIB
"""Bytes of an answer that are made in one step, about: 1 ms."""

log = Logger()

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
