"""Refuses requests while the server is not running."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from acebase_ipc.http.endpoint import respond


class Unavailable(Resource):
    """Answers every request with 503."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Refuse the request."""
        request.setHeader(b"Connection", b"close")
        return respond(request, HTTPStatus.SERVICE_UNAVAILABLE, "The server is not running")


class Gate(Resource):
    """Passes requests on to the relay's resource while the server is running.

    :param relay: the root of the relay's resources.
    :param is_open: tells whether requests are passed on.
    """

    def __init__(self, relay: Resource, is_open: Callable[[], bool]) -> None:
        super().__init__()
        self._relay = relay
        self._is_open = is_open

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Return the relay's child, unless the user has put one of that name here."""
        if not self._is_open():
            return Unavailable()
        child: IResource = self._relay.getChildWithDefault(path, request)
        return child

    def render(self, request: Request) -> bytes | int:
        """Answer a request for the path where the relay is mounted."""
        target = self._relay if self._is_open() else Unavailable()
        answer: bytes | int = target.render(request)
        return answer
