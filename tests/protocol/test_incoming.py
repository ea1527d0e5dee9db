"""What a peer receives, read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.protocol import messages as protocol
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.messages import (
    Body,
    ConnectNotice,
    DisconnectNotice,
    DownloadNotice,
    Pong,
    Unknown,
    Welcome,
    read,
    utf8_size,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (protocol.welcome(16384).decode(), Welcome(16384)),
        (protocol.connected(b"alice").decode(), ConnectNotice("alice")),
        (protocol.disconnected(b"a:b").decode(), DisconnectNotice("a:b")),
        (protocol.announcement("a-b_c").decode(), DownloadNotice("a-b_c")),
        (protocol.PONG.decode(), Pong()),
        ("msg:", Body("")),
        ('{"type":"hello"}', Body('{"type":"hello"}')),
        ("", Unknown()),
        ("pong:", Unknown()),
        ("get:", Unknown()),
        ("connect:", Unknown()),
        ("disconnect:", Unknown()),
        ("news:of later versions", Unknown()),
        ("welcome:", Unknown()),
        ("welcome:{}", Unknown()),
        ("welcome:[1]", Unknown()),
        ('welcome:{"maxPayload":"1"}', Unknown()),
        ('welcome:{"maxPayload":0}', Unknown()),
        ('welcome:{"maxPayload":true}', Unknown()),
        ('welcome:{"maxPayload":1,"more":2}', Welcome(1)),
        ("welcome:" + "[" * 100_000, Unknown()),
    ],
)
def test_each_message_is_understood(text: str, message: object) -> None:
    assert read(text) == message


@given(st.text(), st.sampled_from(Dialect))
def test_whatever_a_peer_sends_is_read_as_it_was(body: str, dialect: Dialect) -> None:
    assert read(protocol.render(body.encode(), dialect).decode()) == Body(body)


@given(st.text())
def test_anything_can_be_read(text: str) -> None:
    read(text)
    read("welcome:" + text)


@given(st.text())
def test_sizes_are_those_of_utf_8(text: str) -> None:
    assert utf8_size(text) == len(text.encode())
