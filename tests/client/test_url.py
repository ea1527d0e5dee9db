"""Where a relay is, as one line of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.client.url import RelayURL, parse_url
from acebase_ipc.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ws://127.0.0.1:9163", RelayURL(False, "127.0.0.1", 9163)),
        ("ws://localhost", RelayURL(False, "localhost", 80)),
        ("wss://db.example.org", RelayURL(True, "db.example.org", 443)),
        ("WSS://DB.example.org:1/", RelayURL(True, "db.example.org", 1)),
        ("ws://[::1]:9163", RelayURL(False, "::1", 9163)),
        ("ws://h/ipc/", RelayURL(False, "h", 80, None, "/ipc")),
        ("ws://h/a%20b/ü", RelayURL(False, "h", 80, None, "/a%20b/%C3%BC")),
        ("ws://bücher.example", RelayURL(False, "xn--bcher-kva.example", 80)),
        ("ws+unix:/run/a.sock", RelayURL(False, "localhost", 80, "/run/a.sock")),
        ("ws+unix:///run/a.sock", RelayURL(False, "localhost", 80, "/run/a.sock")),
        ("ws+unix:/run/a%20b%3Ac", RelayURL(False, "localhost", 80, "/run/a b:c")),
        ("ws+unix:/run/a:/ipc", RelayURL(False, "localhost", 80, "/run/a", "/ipc")),
    ],
)
def test_it_reads_where_a_relay_is(text: str, url: RelayURL) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown scheme"),
        ("127.0.0.1:9163", "unknown scheme"),
        ("http://secret.example", "unknown scheme"),
        ("ws:", "no host"),
        ("ws://", "no host"),
        ("ws://:9163", "no host"),
        ("ws://h:0", "port 0"),
        ("ws://h:secret", "invalid host or port"),
        ("ws://h:65536", "invalid host or port"),
        ("ws://[secret]", "invalid host or port"),
        ("ws://a..ü", "invalid host"),
        ("ws://sec*ret", "invalid host"),
        ("ws://..", "invalid host"),
        ("ws://-", "invalid host"),
        ("ws://a..b", "invalid host"),
        ("ws://a-.b", "invalid host"),
        ("ws://secret@h", "no user"),
        ("ws://h?t=secret", "no query"),
        ("ws://h#secret", "no query"),
        ("ws://h/secret here", "spaces or control characters"),
        ("ws://h\n", "spaces or control characters"),
        ("ws+unix:", "absolute path"),
        ("ws+unix:secret", "absolute path"),
        ("ws+unix:/secret%00", "absolute path"),
        ("ws+unix:/run/a:secret", "is a path, too"),
    ],
)
def test_it_tells_what_is_wrong_without_a_secret(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


@given(st.text() | st.text("ws+unix:/[]@%.-09az ", max_size=30).map("ws://".__add__))
def test_it_reads_or_refuses_anything(text: str) -> None:
    try:
        url = parse_url(text)
    except ConfigError:
        return
    (url.authority + url.prefix).encode("ascii")


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("ws://h:9163", "h:9163"),
        ("wss://h/ipc", "h:443"),
        ("ws://[fe80::1%eth0]:1", "[fe80::1]:1"),
        ("ws://[fe80::1%25eth0]:1", "[fe80::1]:1"),
        ("ws://my_host.example.:1", "my_host.example.:1"),
        ("ws://127.0.0.1:1", "127.0.0.1:1"),
        ("ws+unix:/run/a.sock", "localhost:80"),
    ],
)
def test_requests_name_host_and_port(text: str, authority: str) -> None:
    assert parse_url(text).authority == authority
