"""Endpoint strings, parsed into values."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import _parse

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.endpoints import parse_endpoint, render

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def as_twisted_reads(description: str) -> tuple[list[str], dict[str, str]]:
    positional, named = _parse(description)
    return positional, named


@pytest.mark.parametrize(
    ("text", "wrappers", "kind", "arguments"),
    [
        ("tcp:1", (), "tcp", {"port": "1"}),
        ("TCP:1", (), "tcp", {"port": "1"}),
        (
            "tcp:1:127.0.0.1:5",
            (),
            "tcp",
            {"port": "1", "interface": "127.0.0.1", "backlog": "5"},
        ),
        (r"tcp6:1:interface=\:\:1", (), "tcp6", {"port": "1", "interface": "::1"}),
        ("tcp6:1:7", (), "tcp6", {"port": "1", "backlog": "7"}),
        ("unix:/a:mode=666", (), "unix", {"address": "/a", "mode": "666"}),
        (r"unix:/a\:b\\c\=d", (), "unix", {"address": r"/a:b\c=d"}),
        ("haproxy:tcp:1", ("haproxy",), "tcp", {"port": "1"}),
        ("HAProxy:haproxy:tcp6:1", ("haproxy", "haproxy"), "tcp6", {"port": "1"}),
        ("pfx:1:path=/a:passphrase=b=c", (), "pfx", None),
        ("systemd:index=0", (), "systemd", {"index": "0"}),
        ("systemd:INET:name=x", (), "systemd", {"domain": "INET", "name": "x"}),
        ("ssl:systemd:/k", (), "ssl", {"port": "systemd", "privateKey": "/k"}),
        (
            "haproxy:pfx:systemd:path=/a:name=x",
            ("haproxy",),
            "pfx",
            {"port": "systemd", "path": "/a", "name": "x"},
        ),
        ("tls:/a", (), "tls", {"path": "/a", "port": "443", "interface": "::"}),
        ("tls:/a:systemd", (), "tls", {"path": "/a", "port": "systemd"}),
        ("txsni:certs:tcp:1", (), "txsni", {}),
        ("", (), "", {}),
    ],
)
def test_what_an_endpoint_string_means(
    text: str, wrappers: tuple[str, ...], kind: str, arguments: dict[str, str] | None
) -> None:
    parsed = parse_endpoint(text)
    assert (parsed.wrappers, parsed.kind) == (wrappers, kind)
    if arguments is not None:
        assert parsed.arguments == arguments


@given(st.dictionaries(st.sampled_from(["interface", "x", "y=z", "a:b"]), texts))
@example({"interface": "fe80::1%eth0"})
@example({"interface": "\\"})
def test_arguments_are_read_as_twisted_reads_them(arguments: dict[str, str]) -> None:
    named = {name: value for name, value in arguments.items() if "=" not in name}
    text = render("tcp:1", {name.replace(":", "\\:"): value for name, value in named.items()})
    assert as_twisted_reads(text) == (["tcp", "1"], named)
    assert parse_endpoint(text).arguments == {"port": "1", **named}


@given(texts.filter(bool))
def test_what_twisted_is_given_has_the_same_arguments(interface: str) -> None:
    parsed = parse_endpoint(render("tcp:1", {"interface": interface, "backlog": "5"}))
    assert as_twisted_reads(parsed.description) == (
        ["tcp"],
        {"port": "1", "interface": interface, "backlog": "5"},
    )


@pytest.mark.parametrize(
    "text",
    [
        "tcp:9163",
        r"tcp:9163:interface=\:\:1",
        "tcp6:9163",
        "ssl:9163:privateKey=key.pem",
        "tls:certificates:9163",
        "unix:/run/acebase-ipc.sock:mode=660",
        r"unix:/run/odd\:backlog\=3",
        "pfx:9163:path=server.pfx",
        "haproxy:tcp:9163",
        "haproxy:tcp6:9163",
    ],
)
def test_the_queue_of_a_port_holds_1024_connections(text: str) -> None:
    _, named = as_twisted_reads(parse_endpoint(text).description)
    assert named["backlog"] == "1024"


@pytest.mark.parametrize(
    "text", ["tcp:9163:backlog=7", "tcp:1::7", "unix:backlog=7:/a", "haproxy:tcp6:1:7"]
)
def test_a_queue_that_is_given_stays(text: str) -> None:
    _, named = as_twisted_reads(parse_endpoint(text).description)
    assert named["backlog"] == "7"


@pytest.mark.parametrize("text", ["systemd:domain=INET:index=0", "nonsense:1", "txsni:a:tcp:1"])
def test_a_kind_without_a_queue_gets_none(text: str) -> None:
    assert "backlog" not in parse_endpoint(text).description


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ssl:1:privateKey=a/b", "privateKey"),
        ("ssl:1:a/b", "privateKey"),
        ("ssl:1:privateKey=a:certKey=a/b", "certKey"),
        ("ssl:1:privateKey=a:extraCertChain=a/b", "extraCertChain"),
        ("tls:a/b:1", "path"),
        ("pfx:1:path=a/b", "path"),
        ("pfx:1:path=x:passphraseFile=a/b", "passphraseFile"),
        ("unix:a/b", "address"),
        ("haproxy:unix:a/b", "address"),
    ],
)
def test_paths_are_resolved_at_once(text: str, name: str) -> None:
    parsed = parse_endpoint(text)
    assert parsed.arguments[name] == os.path.join(os.getcwd(), "a", "b")
    assert parsed.text == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tcp", "the port is missing"),
        ("tcp:", "the port is missing"),
        ("tcp:http", "the port is not a whole number from 0 to 65535"),
        ("tcp:65536", "the port is not a whole number from 0 to 65535"),
        ("haproxy:tcp6:-1", "the port is not a whole number from 0 to 65535"),
        ("tcp:1:backlog=2147483648", "the backlog is not a whole number from 0 to 2147483647"),
        ("tcp:1:port=2", "port is given twice"),
        ("tcp:1:a:2:b", "too many arguments for tcp"),
        ("tcp:1:interface=a\\", "it ends with a backslash"),
        ("unix:", "the path is missing"),
        ("unix:a:mode=rw", "mode is an octal number such as 660"),
        ("unix:a:lockfile=x", "lockfile is 0 or 1"),
        ("tcp:systemd", "the port is not a whole number from 0 to 65535"),
        ("ssl:systemd:a:backlog=7", "backlog is that of the inherited socket: leave it out"),
        ("pfx:systemd:path=a:interface=x", "interface is that of the inherited socket"),
        ("ssl:1:a:name=x", "name needs an inherited socket: write ssl:port=systemd"),
    ],
)
def test_a_value_that_the_system_cannot_take_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_endpoint(text)
    assert str(raised.value).startswith(f"cannot listen on {text!r}: {reason}")


@pytest.mark.parametrize("rest", ["hush:hush", "hush:port=hush", "hush\\"])
def test_no_part_of_a_passphrase_is_in_an_error(rest: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_endpoint(f"pfx:1:path=a:passphrase={rest}")
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "is_inherited"),
    [
        ("systemd:", True),
        ("haproxy:systemd:index=0", True),
        ("ssl:systemd:a", True),
        ("pfx:port=systemd:path=a", True),
        ("tls:a:systemd", True),
        ("tls:systemd:1", False),
        ("ssl:1:systemd", False),
        ("unix:systemd", False),
        ("plugin:systemd", False),
    ],
)
def test_an_endpoint_may_be_on_a_socket_of_a_service_manager(text: str, is_inherited: bool) -> None:
    assert parse_endpoint(text).is_inherited is is_inherited


def test_no_passphrase_is_in_a_repr() -> None:
    parsed: Any = parse_endpoint("pfx:1:path=a:passphrase=hush")
    assert "hush" not in repr(parsed)
    assert parsed.redacted == "pfx:1:path=a:passphrase=…"
