"""HTTP requests that are refused.

See :mod:`acebase_ipc.errors` for the whole tree.
"""

from __future__ import annotations

from http import HTTPStatus

from acebase_ipc.protocol.errors import RequestRefused


class Unauthorized(RequestRefused):
    """The origin or the host of a request is not accepted."""

    status = HTTPStatus.FORBIDDEN

    def __init__(self, reason: str = "Unauthorized") -> None:
        super().__init__(reason)


class WrongToken(RequestRefused):
    """A token is required, and the one presented does not open the database."""

    def __init__(self, status: int) -> None:
        """:param status: 403 for a handshake, as the npm package acebase expects; else 401."""
        super().__init__("Unauthorized")
        self.status = HTTPStatus(status)


class DatabaseNotServed(RequestRefused):
    """The database is none of those that this relay serves."""

    status = HTTPStatus.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("This relay does not serve this database")


class MethodNotAllowed(RequestRefused):
    """The path does not know this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self) -> None:
        super().__init__("Method not allowed")


class ConflictingId(RequestRefused):
    """Another living process is connected under this id."""

    status = HTTPStatus.CONFLICT

    def __init__(self) -> None:
        super().__init__("Another living client is connected under this id")


class RequestTooLarge(RequestRefused):
    """A request body exceeds ``max_message`` bytes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, max_message: int) -> None:
        super().__init__(f"The message exceeds {max_message} bytes")


class UpgradeRequired(RequestRefused):
    """The path speaks WebSocket only."""

    status = HTTPStatus.UPGRADE_REQUIRED

    def __init__(self) -> None:
        super().__init__("This is a WebSocket: connect with an upgrade")


class BadRequest(RequestRefused):
    """The request cannot be parsed."""


class HeadTooLarge(RequestRefused):
    """The request line and headers are too many, or too long."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE

    def __init__(self) -> None:
        super().__init__("The request line and headers are too large")


class HTTPVersionRefused(RequestRefused):
    """A WebSocket needs HTTP/1.1 (RFC 6455, section 4.1)."""

    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED

    def __init__(self) -> None:
        super().__init__("An upgrade needs HTTP/1.1")
