"""Answers that are none of a relay: each is told in one line, and none ends in a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

import pytest

from acebase_ipc.cli.place import Place
from acebase_ipc.cli.shape import answer_schema, difference, event_schema
from acebase_ipc.testing import DATABASE
from tests.admin.relay import AdminRelay
from tests.cli.conftest import Command

ADMIN = "http://127.0.0.1:9164"
SAYS = f"the relay at {ADMIN} answered with something else than this command expects: "

Answers = dict[str, Any]
Path = tuple[str | int, ...]


@pytest.fixture(scope="module")
def answers() -> Answers:
    """What a relay with something of everything answers, by path."""
    paths = ("status", "databases", f"databases/{DATABASE}", "events")
    with AdminRelay(admin_bodies=True) as relay:
        reading = relay.read_stream("events=1&status=1&messages=1&bodies=1")
        relay.furnish()
        found = {path: relay.see(path) for path in paths}
        found |= {f"stream/{each.kind}": each.data for each in reading.take()}
    return found | {
        f"databases/{DATABASE}/peers/alice/kick": {"kicked": True},
        "drain": {"draining": True},
        "reload": {"reloaded": True},
        "stream/skipped": {"messages": 5},
    }


class Socket:
    """A socket that holds an answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._answer)


class Connection:
    """An HTTP connection to a relay that gives *answers*."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._body = b""

    def request(self, method: str, target: str, *_: object) -> None:
        path = target.removeprefix("/api/v1/").partition("?")[0]
        if path == "stream":
            kinds = ("event", "message", "skipped")
            each = (
                f"event: {kind}\ndata: {json.dumps(self._answers[f'stream/{kind}'])}\n\n"
                for kind in kinds
            )
            self._body = "".join(each).encode()
        else:
            self._body = json.dumps(self._answers[path]).encode()

    def getresponse(self) -> HTTPResponse:
        sock: Any = Socket(b"HTTP/1.1 200 OK\r\n\r\n" + self._body)
        response = HTTPResponse(sock)
        response.begin()
        return response

    def close(self) -> None: ...


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The places of all values in *value*: of a list, those in its first item."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))


def replaced(value: Any, path: Path, other: object) -> Any:
    """A copy of *value* with *other* at that place."""
    changed = copy.deepcopy(value)
    inner = changed
    for each in path[:-1]:
        inner = inner[each]
    inner[path[-1]] = other
    return changed


def schema_of(name: str) -> Any:
    """The schema of the answer, or of the event of the stream, of this name."""
    if name.startswith("stream/"):
        return event_schema(name.removeprefix("stream/"))
    if name in ("drain", "reload") or name.endswith("kick"):
        return answer_schema("POST", name)
    return answer_schema("GET", name)


def test_what_a_relay_answers_is_expected(answers: Answers) -> None:
    assert len(answers) == 11
    for name, answer in answers.items():
        assert difference(answer, schema_of(name)) is None


def test_what_a_later_relay_adds_is_no_difference(answers: Answers) -> None:
    later = answers["status"] | {"added": object(), "state": "sleeping"}
    assert difference(later, schema_of("status")) is None
    assert difference({"x": 1}, event_schema("added")) is None
    assert difference([], event_schema("added")) == "it is not an object"


@pytest.mark.parametrize(
    ("name", "path", "other", "says"),
    [
        ("status", ("memory", "used"), "x", "memory.used is not a whole number"),
        ("status", ("memory", "used"), True, "memory.used is not a whole number"),
        ("status", ("memory", "used"), 1.5, "memory.used is not a whole number"),
        ("status", ("memory", "resident"), "x", "memory.resident is not a whole number or null"),
        ("status", ("uptime",), float("nan"), "uptime is not a number"),
        ("status", ("uptime",), float("inf"), "uptime is not a number"),
        ("status", ("peers",), 10**400, "peers is not a whole number"),
        ("status", ("memory",), {}, "memory.used is missing"),
        ("status", ("limits", "max_memory"), "x", "limits.max_memory is not a number or null"),
        ("status", ("endpoints",), "x", "endpoints is not a list"),
        ("status", ("endpoints",), ["x", 1], "endpoints[1] is not a text"),
        ("databases", ("databases", 0), [], "databases[0] is not an object"),
        ("databases", ("databases", 0, "has_master"), 1, "databases[0].has_master is not true or"),
        ("drain", ("draining",), "x", "draining is not true or false"),
    ],
)
def test_what_is_different_is_named(
    answers: Answers, name: str, path: Path, other: object, says: str
) -> None:
    found = difference(replaced(answers[name], path, other), schema_of(name))
    assert found is not None
    assert found.startswith(says)


OTHERS: list[Any] = [
    None,
    True,
    "ws://x:99999",
    -1.5,
    float("nan"),
    float("inf"),
    10**400,
    [[]],
    {"x": []},
]
"""Values that most members may not have."""

COMMANDS = [
    ("status", ("status",)),
    ("databases", ("databases",)),
    (f"databases/{DATABASE}", ("peers", DATABASE)),
    ("status", ("peers", DATABASE)),
    (f"databases/{DATABASE}", ("locks", DATABASE)),
    ("status", ("top",)),
    ("databases", ("top",)),
    ("events", ("events",)),
    ("stream/event", ("events", "--follow")),
    ("stream/message", ("watch", DATABASE)),
    ("stream/skipped", ("watch", DATABASE)),
    (f"databases/{DATABASE}/peers/alice/kick", ("kick", DATABASE, "alice")),
    ("drain", ("drain",)),
    ("reload", ("reload",)),
]


@pytest.mark.no_cover  # it runs thousands of commands
@pytest.mark.parametrize(
    ("name", "arguments"), COMMANDS, ids=["-".join((*each, name)) for name, each in COMMANDS]
)
def test_a_command_tells_what_it_did_not_expect(
    command: Command,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: tuple[str, ...],
) -> None:
    given: Answers = dict(answers)
    monkeypatch.setattr(Place, "connection", lambda *_: Connection(given))
    told = 0
    for path in leaves(answers[name]):
        for other in OTHERS:
            given[name] = replaced(answers[name], path, other)
            shown = command("--admin", ADMIN, *arguments)
            assert "defect" not in shown.errors
            if difference(given[name], schema_of(name)) is not None:
                assert (shown.status, SAYS in shown.error) == (1, True)
                told += 1
    assert told > 0


def test_a_stream_of_something_else(
    command: Command, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "connection", lambda *_: Connection(answers | {"stream/event": "x"}))
    shown = command("--admin", ADMIN, "watch", DATABASE)
    assert (shown.status, shown.error) == (
        1,
        f"acebase-ipc: {SAYS}it is not an object. Are they of different versions?",
    )
