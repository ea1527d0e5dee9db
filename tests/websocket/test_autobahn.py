"""The private names of Autobahn and Twisted, and what happens where one is missing."""

from __future__ import annotations

from types import FunctionType

import pytest
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.tcp import Server

from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket._autobahn import (
    PARSER_NAMES,
    TRANSPORT_NAMES,
    buffered,
    missing_names,
)


class Base:
    """Has one name as a method, and sets one in a method."""

    def in_base(self) -> None:
        self.set_in_base = 1


class Kind(Base):
    in_kind = 1

    def method(self) -> None:
        self.set_in_kind = 1


@pytest.mark.parametrize("name", ["in_base", "set_in_base", "in_kind", "set_in_kind", "method"])
def test_a_name_that_is_defined_or_used_is_not_missing(name: str) -> None:
    assert missing_names(Kind, [name]) == set()


def test_a_name_that_is_neither_is_missing() -> None:
    assert missing_names(Kind, ["in_kind", "renamed", "gone"]) == {"renamed", "gone"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [(WebSocketServerProtocol, PARSER_NAMES), (Server, TRANSPORT_NAMES)],
    ids=["Autobahn", "Twisted"],
)
def test_every_name_is_there_and_would_be_missed(kind: type, names: tuple[str, ...]) -> None:
    assert missing_names(kind, names) == set()
    for name in names:
        others = [each for each in names if each != name]
        stub = type("Stub", (), dict.fromkeys(others))
        assert missing_names(stub, names) == {name}


def test_nothing_is_missing_in_the_versions_that_are_tested() -> None:
    assert not _autobahn.MISSING
    assert _autobahn.PARSER_IS_KNOWN
    assert _autobahn.TRANSPORT_IS_KNOWN


class Transport:
    """A transport with some bytes in each of its buffers."""

    def __init__(self) -> None:
        self.dataBuffer = b"x" * 100
        self.offset = 10
        self._tempDataLen = 5


def test_what_a_transport_has_buffered() -> None:
    assert buffered(Transport()) == 95


def test_what_a_transport_below_tls_has_buffered() -> None:
    tls = Transport()
    tls.transport = Transport()  # type: ignore[attr-defined]
    tls.transport.offset = 100  # type: ignore[attr-defined]
    assert buffered(tls) == 5


@pytest.mark.parametrize("name", ["dataBuffer", "offset", "_tempDataLen"])
def test_what_a_transport_has_buffered_is_unknown_without_a_name(name: str) -> None:
    transport = Transport()
    delattr(transport, name)
    assert buffered(transport) is None


def test_the_methods_that_colour_values_are_those_of_autobahn_without_that() -> None:
    copies = vars(_autobahn.ServerProtocol)
    assert {"_connectionMade", "processHandshake"} <= copies.keys()
    for name, copy in copies.items():
        if isinstance(copy, FunctionType):
            original = getattr(WebSocketServerProtocol, name)
            assert copy.__code__ is original.__code__
            assert copy.__closure__ == original.__closure__
            coloured = {each for each in copy.__code__.co_names if each.startswith("hl")}
            assert coloured
            assert all(copy.__globals__[each]("a value") is None for each in coloured)
