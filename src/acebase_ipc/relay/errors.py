"""Requests that the relay cannot serve: an unknown peer or message, or a limit that is reached.

See :mod:`acebase_ipc.errors` for the whole tree.
"""

from __future__ import annotations

from http import HTTPStatus

from acebase_ipc.protocol.errors import RequestRefused


class NotAPeer(RequestRefused):
    """The id is not a peer of that database."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class NotFound(RequestRefused):
    """There is nothing at this path, or no such message for this peer."""

    status = HTTPStatus.NOT_FOUND

    def __init__(self, reason: str = "Not found") -> None:
        super().__init__(reason)


class AmbiguousPeer(RequestRefused):
    """The request does not name a database, and several databases have a peer of its id."""

    status = HTTPStatus.CONFLICT

    def __init__(self) -> None:
        super().__init__("Several databases have a peer of this id: name the database")


class Overloaded(RequestRefused):
    """A limit of the server is reached; the client may try again later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class HistoryGap(RequestRefused):
    """Changes after a cursor are not known any more: read the database, then begin anew."""

    status = HTTPStatus.GONE

    def __init__(self) -> None:
        super().__init__(
            "Changes after this cursor are not known: read the database, and begin without a cursor"
        )
