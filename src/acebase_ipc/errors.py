"""What can be wrong with a configuration, a request or a message.

Every refusal is one of these, and carries what the client is told::

    IPCError
    ├── ConfigError (also a ValueError)   an option or argument cannot be used
    ├── RequestRefused                    an HTTP request or a handshake: .status
    │   ├── Unauthorized        403       the origin or host of a request
    │   ├── WrongToken          403/401   the token of a handshake / a request
    │   ├── NotAPeer            401       the id of a request
    │   ├── UnsupportedVersion  409       the client's IPC version
    │   ├── InvalidClientId     500       the status published clients look for
    │   ├── InvalidDatabaseName 400
    │   ├── NotFound            404
    │   ├── MethodNotAllowed    405
    │   ├── AmbiguousPeer       409       several databases have a peer of that id
    │   ├── ContestedId         409       another living process has this id
    │   ├── RequestTooLarge     413
    │   ├── UpgradeRequired     426
    │   └── Overloaded          503       a limit is reached: try again later
    └── MessageRefused                    a message: .close_code and .status
        ├── InvalidAddress      1008/400
        ├── InvalidText         1007/400
        └── MessageTooLarge     1009/413

``str(error)`` is the one line of text that the client receives. It never
holds a token, a message body or a whole URL.
"""

from __future__ import annotations

from http import HTTPStatus


class IPCError(Exception):
    """The base of every error this package raises on purpose."""


class ConfigError(IPCError, ValueError):
    """An option or argument cannot be used; the text says which and why."""


class RequestRefused(IPCError):
    """An HTTP request, or a WebSocket handshake, is answered with an error.

    :ivar status: the HTTP status to answer with.
    """

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(RequestRefused):
    """The origin or the host of a request is not accepted."""

    status = HTTPStatus.FORBIDDEN

    def __init__(self, reason: str = "Unauthorized") -> None:
        super().__init__(reason)


class WrongToken(RequestRefused):
    """A token is required, and the one presented does not open the database."""

    def __init__(self, status: int) -> None:
        """:param status: 403 for a handshake, as published clients expect; else 401."""
        super().__init__("Unauthorized")
        self.status = HTTPStatus(status)


class NotAPeer(RequestRefused):
    """The id is not a peer of that database."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class UnsupportedVersion(RequestRefused):
    """The client speaks another major version of the IPC protocol."""

    status = HTTPStatus.CONFLICT

    def __init__(self) -> None:
        super().__init__("Unsupported client IPC version")


class InvalidClientId(RequestRefused):
    """The client's id cannot be used; 500 because published clients look for it."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("Invalid IPC client id")


class InvalidDatabaseName(RequestRefused):
    """The database name is empty, too long, or holds control characters."""

    def __init__(self) -> None:
        super().__init__("Invalid database name")


class NotFound(RequestRefused):
    """There is nothing at this path, or no such message for this peer."""

    status = HTTPStatus.NOT_FOUND

    def __init__(self, reason: str = "Not found") -> None:
        super().__init__(reason)


class MethodNotAllowed(RequestRefused):
    """The path does not know this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self) -> None:
        super().__init__("Method not allowed")


class AmbiguousPeer(RequestRefused):
    """A request without a database name, and several databases have that peer."""

    status = HTTPStatus.CONFLICT

    def __init__(self) -> None:
        super().__init__("Several databases have a peer of this id: name the database")


class ContestedId(RequestRefused):
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


class Overloaded(RequestRefused):
    """A limit of the server is reached; the client may try again later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class MessageRefused(IPCError):
    """A message cannot be relayed; nothing of it has been delivered.

    :ivar close_code: closes the WebSocket it came over (RFC 6455, section 7.4).
    :ivar status: answers the POST it came with.
    """

    close_code = 1008
    status = HTTPStatus.BAD_REQUEST


class InvalidAddress(MessageRefused):
    """``to:`` without ``;``, or with an empty id."""

    def __init__(self) -> None:
        super().__init__("An addressed message is to:<id>;<body>")


class InvalidText(MessageRefused):
    """The message is not valid UTF-8."""

    close_code = 1007

    def __init__(self) -> None:
        super().__init__("The message is not valid UTF-8")


class MessageTooLarge(MessageRefused):
    """The message exceeds ``max_payload`` UTF-16 code units."""

    close_code = 1009
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, max_payload: int) -> None:
        super().__init__(f"The message exceeds maxPayload, {max_payload} UTF-16 code units")
