"""Sockets that a service manager passes on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Factory

from acebase_ipc.server import inherited
from acebase_ipc.server.inherited import (
    InheritedEndpoint,
    find_descriptor,
    inherited_descriptors,
)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, {3: "unknown"}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, {3: "a", 4: "b"}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, {3: "a", 4: "unknown"}),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, {}),
        ({"LISTEN_PID": "7"}, {}),
    ],
)
def test_the_environment_tells_which_descriptors_are_inherited(
    environ: dict[str, str], expected: dict[int, str]
) -> None:
    assert inherited_descriptors(environ, 7) == expected


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(opened: ExitStack, family: socket.AddressFamily, address: Any) -> int:
    listener = opened.enter_context(socket.socket(family))
    listener.bind(address)
    listener.listen()
    return listener.fileno()


@pytest.fixture
def ipv4(opened: ExitStack) -> int:
    return listening(opened, socket.AF_INET, ("127.0.0.1", 0))


@pytest.fixture
def dual_stack(opened: ExitStack) -> int:
    listener = opened.enter_context(socket.socket(socket.AF_INET6))
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen()
    return listener.fileno()


@pytest.mark.parametrize(
    ("index", "name", "expected"), [("0", None, 0), ("1", None, 1), (None, "web", 0)]
)
def test_a_socket_is_found_by_index_or_name(
    ipv4: int, dual_stack: int, index: str | None, name: str | None, expected: int
) -> None:
    descriptors = {ipv4: "web", dual_stack: "relay"}
    found = find_descriptor(descriptors, None, index, name)
    assert found == [ipv4, dual_stack][expected]


@pytest.mark.parametrize("domain", [None, "INET", "INET6"])
def test_a_dual_stack_socket_is_one_of_both_families(dual_stack: int, domain: str | None) -> None:
    assert find_descriptor({dual_stack: "x"}, domain, "0", None) == dual_stack


@pytest.mark.parametrize(
    ("domain", "index", "name", "reason"),
    [
        (None, None, None, "give either index= or name="),
        (None, "0", "x", "give either index= or name="),
        ("IPX", "0", None, "domain is one of INET, INET6, UNIX"),
        (None, "2", None, "0 inherited sockets match, of 0: x, 1: x"),
        (None, "-1", None, "0 inherited sockets match, of 0: x, 1: x"),
        (None, "first", None, "0 inherited sockets match, of 0: x, 1: x"),
        (None, None, "y", "0 inherited sockets match, of 0: x, 1: x"),
        (None, None, "x", "2 inherited sockets match, of 0: x, 1: x"),
        ("UNIX", "0", None, "the inherited socket is one of INET, not UNIX"),
    ],
)
def test_a_socket_that_is_not_there_is_refused(
    ipv4: int,
    dual_stack: int,
    domain: str | None,
    index: str | None,
    name: str | None,
    reason: str,
) -> None:
    with pytest.raises(ValueError, match=reason):
        find_descriptor({ipv4: "x", dual_stack: "x"}, domain, index, name)


@pytest.mark.parametrize("index", ["0", None])
def test_without_inherited_sockets_the_error_says_so(index: str | None) -> None:
    with pytest.raises(ValueError, match="this process has inherited no socket"):
        find_descriptor({}, "INET", index, None)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (socket.SOCK_STREAM, "does not listen: use Accept=no"),
        (socket.SOCK_DGRAM, "is not a stream socket"),
    ],
)
def test_a_socket_of_another_kind_is_refused(
    opened: ExitStack, kind: socket.SocketKind, reason: str
) -> None:
    other = opened.enter_context(socket.socket(socket.AF_INET, kind))
    with pytest.raises(ValueError, match=reason):
        find_descriptor({other.fileno(): "x"}, None, "0", None)


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    with tmp_path.joinpath("file").open("w") as file:  # noqa: SIM117
        with pytest.raises(ValueError, match="is no socket"):
            find_descriptor({file.fileno(): "x"}, None, "0", None)


class Adopting:
    """A reactor that only notes what it adopts."""

    def __init__(self) -> None:
        self.families: list[int] = []

    def adoptStreamPort(self, fileno: int, family: int, factory: Any) -> Any:
        self.families.append(family)
        return global_reactor.adoptStreamPort(  # type: ignore[attr-defined]
            fileno, family, factory
        )


def test_the_family_of_a_socket_is_the_systems_word(
    dual_stack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.dup(dual_stack)
    monkeypatch.setattr(inherited, "inherited_descriptors", lambda *_: {copy: "x"})
    reactor = Adopting()
    endpoint = InheritedEndpoint(reactor, {"domain": "INET", "index": "0"})
    ports: list[Any] = []
    endpoint.listen(Factory()).addCallback(ports.append)
    assert reactor.families == [socket.AF_INET6]
    assert ports[0].getHost().host == "::"
    again: list[Any] = []
    endpoint.listen(Factory()).addErrback(again.append)
    assert "was closed when the server stopped" in str(again[0].value)
    ports[0].stopReading()
    ports[0].socket.close()


def test_an_inherited_unix_socket_stays_in_the_file_system(
    opened: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "relay.sock"
    copy = os.dup(listening(opened, socket.AF_UNIX, str(path)))
    monkeypatch.setattr(inherited, "inherited_descriptors", lambda *_: {copy: "x"})
    ports: list[Any] = []
    InheritedEndpoint(Adopting(), {"index": "0"}).listen(Factory()).addCallback(ports.append)
    stopped: list[Any] = []
    ports[0].stopListening().addCallback(stopped.append)
    assert stopped == [None]
    assert path.exists()
