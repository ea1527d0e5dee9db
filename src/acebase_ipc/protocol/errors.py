"""The errors of handshakes and messages.

See :mod:`acebase_ipc.errors` for the whole tree.
"""

from __future__ import annotations

from http import HTTPStatus

from acebase_ipc.errors import IPCError


class RequestRefused(IPCError):
    """An HTTP request, or a WebSocket handshake, is answered with an error.

    :ivar status: the HTTP status to answer with.
    """

    status = HTTPStatus.BAD_REQUEST


class UnsupportedVersion(RequestRefused):
    """The client speaks another major version of the IPC protocol."""

    status = HTTPStatus.CONFLICT

    def __init__(self) -> None:
        super().__init__("Unsupported client IPC version")


class InvalidClientId(RequestRefused):
    """The client's id is missing or invalid; the npm package acebase expects the status 500."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("Invalid IPC client id")


class InvalidDatabaseName(RequestRefused):
    """The database name is empty, too long, or holds control characters."""

    def __init__(self) -> None:
        super().__init__("Invalid database name")


class MessageRefused(IPCError):
    """A message cannot be relayed; no part of it was delivered.

    :ivar close_code: for a message from a WebSocket: closes it (RFC 6455, section 7.4).
    :ivar status: for a message from a POST: the HTTP status to answer with.
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


class InvalidNumber(MessageRefused):
    """A message in a resumable session has no number, or an acknowledged one does not exist."""

    def __init__(self) -> None:
        super().__init__("A message in a resumable session is n:<number>;<message>")


class WrongSession(MessageRefused):
    """A message was posted in a resumable session that its peer does not have any more."""

    status = HTTPStatus.GONE

    def __init__(self) -> None:
        super().__init__("This is not the session of this peer")


class MissingMessages(MessageRefused):
    """A message in a resumable session has a higher number than the next."""

    status = HTTPStatus.CONFLICT

    def __init__(self) -> None:
        super().__init__("Messages with lower numbers have not arrived")
