"""What a client is told of an error."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from acebase_ipc import errors
from acebase_ipc.errors import ConfigError, IPCError
from acebase_ipc.http import errors as http_errors
from acebase_ipc.http.errors import (
    BadRequest,
    ConflictingId,
    DatabaseNotServed,
    HeadTooLarge,
    HTTPVersionRefused,
    MethodNotAllowed,
    RequestTooLarge,
    Unauthorized,
    UpgradeRequired,
    WrongToken,
)
from acebase_ipc.protocol import errors as protocol_errors
from acebase_ipc.protocol.errors import (
    InvalidAddress,
    InvalidClientId,
    InvalidDatabaseName,
    InvalidNumber,
    InvalidText,
    MessageRefused,
    MessageTooLarge,
    MissingMessages,
    RequestRefused,
    UnsupportedVersion,
    WrongSession,
)
from acebase_ipc.relay import errors as relay_errors
from acebase_ipc.relay.errors import AmbiguousPeer, HistoryGap, NotAPeer, NotFound, Overloaded

# All classes of the module, each with what the contract wants.
REQUESTS: list[tuple[RequestRefused, int, str]] = [
    (WrongToken(403), 403, "Unauthorized"),
    (WrongToken(401), 401, "Unauthorized"),
    (Unauthorized(), 403, "Unauthorized"),
    (DatabaseNotServed(), 403, "This relay does not serve this database"),
    (UnsupportedVersion(), 409, "Unsupported client IPC version"),
    (InvalidClientId(), 500, "Invalid IPC client id"),
    (ConflictingId(), 409, "Another living client is connected under this id"),
    (Overloaded("Too many connections"), 503, "Too many connections"),
    (UpgradeRequired(), 426, "This is a WebSocket: connect with an upgrade"),
    (NotAPeer(), 401, "Unauthorized"),
    (AmbiguousPeer(), 409, "Several databases have a peer of this id: name the database"),
    (NotFound(), 404, "Not found"),
    (NotFound("No such message"), 404, "No such message"),
    (
        HistoryGap(),
        410,
        "Changes after this cursor are not known: read the database, and begin without a cursor",
    ),
    (MethodNotAllowed(), 405, "Method not allowed"),
    (BadRequest("The method is not a token"), 400, "The method is not a token"),
    (HeadTooLarge(), 431, "The request line and headers are too large"),
    (HTTPVersionRefused(), 505, "An upgrade needs HTTP/1.1"),
    (RequestTooLarge(77), 413, "The message exceeds 77 bytes"),
    (InvalidDatabaseName(), 400, "Invalid database name"),
    (RequestRefused("dialect?"), 400, "dialect?"),
]
MESSAGES: list[tuple[MessageRefused, int, int, str]] = [
    (InvalidAddress(), 1008, 400, "An addressed message is to:<id>;<body>"),
    (InvalidText(), 1007, 400, "The message is not valid UTF-8"),
    (InvalidNumber(), 1008, 400, "A message in a resumable session is n:<number>;<message>"),
    (MissingMessages(), 1008, 409, "Messages with lower numbers have not arrived"),
    (WrongSession(), 1008, 410, "This is not the session of this peer"),
    (MessageTooLarge(77), 1009, 413, "The message exceeds maxPayload, 77 UTF-16 code units"),
]


@pytest.mark.parametrize(("error", "status", "text"), REQUESTS)
def test_a_refused_request_has_a_status_and_a_line(
    error: RequestRefused, status: int, text: str
) -> None:
    assert (error.status, str(error)) == (status, text)


@pytest.mark.parametrize(("error", "close_code", "status", "text"), MESSAGES)
def test_a_refused_message_has_a_close_code_and_a_status(
    error: MessageRefused, close_code: int, status: int, text: str
) -> None:
    assert (error.close_code, error.status, str(error)) == (close_code, status, text)


@pytest.mark.parametrize(
    "error", [*(each[0] for each in REQUESTS), *(each[0] for each in MESSAGES)]
)
def test_what_the_client_is_told_is_one_line_that_fits_a_close_frame(error: IPCError) -> None:
    assert str(error).isprintable()
    assert 0 < len(str(error).encode()) <= 123  # RFC 6455, section 5.5


def test_only_handshakes_that_published_clients_give_up_on_have_their_statuses() -> None:
    given_up = {403, 409, 500}
    assert {type(error) for error, _, status, _ in MESSAGES if status in given_up} == {
        MissingMessages  # in a resumable session, which no published client has
    }
    assert {type(error) for error, status, _ in REQUESTS if status in given_up} == {
        AmbiguousPeer,
        ConflictingId,
        DatabaseNotServed,
        InvalidClientId,
        Unauthorized,
        UnsupportedVersion,
        WrongToken,
    }


def test_a_wrong_option_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert str(ConfigError("port?")) == "port?"


# The tree in the module's docstring


def drawn_tree() -> Iterator[tuple[str, str, str]]:
    """Every class that is drawn: its name, its parent's, and the numbers beside it."""
    path: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        drawn = re.fullmatch(
            r" {4}((?:│   |├── |└── |    )*)(\w+)(?: +([\d/]+)(?: .*)?| .*)?", line
        )
        if drawn:
            depth = len(drawn[1]) // 4
            path[depth:] = [drawn[2]]
            yield drawn[2], path[depth - 1] if depth else "", drawn[3] or ""


def real_tree() -> dict[str, str]:
    modules = (errors, protocol_errors, relay_errors, http_errors)
    return {
        name: "" if each is IPCError else each.__bases__[0].__name__
        for module in modules
        for name, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__ == module.__name__
    }


def test_the_docstring_draws_all_classes_as_they_are() -> None:
    assert {name: parent for name, parent, _ in drawn_tree()} == real_tree()


def test_the_docstring_has_the_numbers_as_they_are() -> None:
    numbers: dict[str, set[str]] = {}
    for error, status, _ in REQUESTS:
        numbers.setdefault(type(error).__name__, set()).add(str(status))
    for refused, close_code, status, _ in MESSAGES:
        numbers.setdefault(type(refused).__name__, set()).add(f"{close_code}/{status}")
    for name, _, drawn in drawn_tree():
        if drawn:
            assert drawn in numbers[name] or set(drawn.split("/")) == numbers[name], name
    assert set(numbers) - {name for name, _, drawn in drawn_tree() if drawn} == {"RequestRefused"}
