"""What can go wrong for a client."""

from __future__ import annotations

import inspect
import re

import pytest

from acebase_ipc.client import errors as client_errors
from acebase_ipc.client.errors import (
    ClientError,
    ClosedAsTooLarge,
    ConnectionClosed,
    ConnectionLost,
    ConnectionProblem,
    Finality,
    HandshakeRefused,
    IdInUse,
    IdRejected,
    NotAPeerNow,
    NotARelay,
    PolicyViolated,
    ProtocolError,
    RelayBusy,
    RelayFailed,
    RelayOverloaded,
    RelayShutDown,
    Replaced,
    RequestDenied,
    RequestRejected,
    TokenRejected,
    TooLargeForRelay,
    VersionRejected,
    closed,
    denied,
    refused,
)
from acebase_ipc.http.errors import ConflictingId
from acebase_ipc.protocol.errors import InvalidClientId, UnsupportedVersion


@pytest.mark.parametrize(
    ("status", "text", "kind", "finality"),
    [
        (403, "Unauthorized", TokenRejected, Finality.ALWAYS),
        (409, str(UnsupportedVersion()), VersionRejected, Finality.ALWAYS),
        (409, str(ConflictingId()), IdInUse, Finality.NEVER),
        (500, str(InvalidClientId()), IdRejected, Finality.ALWAYS),
        (500, "Internal Server Error", RelayBusy, Finality.NEVER),
        (400, "Invalid database name", RequestRejected, Finality.ALWAYS),
        (503, "Too many connections", RelayBusy, Finality.NEVER),
        (502, "", RelayBusy, Finality.NEVER),
        (429, "", RelayBusy, Finality.NEVER),
        (404, "Not found", NotARelay, Finality.AT_FIRST),
        (426, "", NotARelay, Finality.AT_FIRST),
        (301, "", NotARelay, Finality.AT_FIRST),
        (200, "ok", NotARelay, Finality.AT_FIRST),
    ],
)
def test_each_refusal_of_a_handshake_has_a_type(
    status: int, text: str, kind: type[ConnectionProblem], finality: Finality
) -> None:
    problem = refused(status, text)
    assert type(problem) is kind
    assert problem.finality is finality
    assert str(status) in str(problem)
    assert text in str(problem)
    if isinstance(problem, HandshakeRefused):
        assert problem.status == status


@pytest.mark.parametrize(
    ("code", "kind", "finality"),
    [
        (1000, ConnectionClosed, Finality.NEVER),
        (1001, RelayShutDown, Finality.NEVER),
        (1002, ProtocolError, Finality.NEVER),
        (1006, ConnectionLost, Finality.NEVER),
        (1007, ProtocolError, Finality.NEVER),
        (1008, PolicyViolated, Finality.NEVER),
        (1009, ClosedAsTooLarge, Finality.NEVER),
        (1011, RelayFailed, Finality.NEVER),
        (4001, Replaced, Finality.ALWAYS),
        (4999, ConnectionClosed, Finality.NEVER),
    ],
)
def test_each_close_code_has_a_type(
    code: int, kind: type[ConnectionClosed], finality: Finality
) -> None:
    problem = closed(code, "why")
    assert type(problem) is kind
    assert problem.finality is finality
    assert problem.code == code
    assert f"({code} 'why')" in str(problem)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotAPeerNow),
        (403, NotAPeerNow),
        (413, TooLargeForRelay),
        (503, RelayOverloaded),
        (404, RequestDenied),
    ],
)
def test_each_refusal_of_a_request_has_a_type(status: int, kind: type[RequestDenied]) -> None:
    problem = denied(status, "why")
    assert type(problem) is kind
    assert problem.status == status
    assert f"{status} 'why'" in str(problem)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, tuple[str, bool, bool]] = {}
    path: list[str] = []
    for line in (client_errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ]*[├└]── )?([A-Z]\w+)( !)?( \(\*\))?( |$)", line)
        if match:
            depth = len(match[1] or "") // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = (path[depth - 1] if depth else "", bool(match[3]), bool(match[4]))
    classes = {
        name: each
        for name, each in vars(client_errors).items()
        if inspect.isclass(each) and issubclass(each, ClientError)
    }
    assert {name: base for name, (base, _, _) in drawn.items() if name != "IPCError"} == {
        name: each.__bases__[0].__name__ for name, each in classes.items()
    }
    for name, (_, always, at_first) in drawn.items():
        finality = getattr(classes.get(name), "finality", Finality.NEVER)
        assert (always, at_first) == (finality is Finality.ALWAYS, finality is Finality.AT_FIRST)
