"""Tokens, origins and host names, in the form in which they are compared."""

from __future__ import annotations

import pytest

from acebase_ipc import AceBaseIPCServerConfig, ConfigError
from acebase_ipc.server.access import clean_host, clean_network, clean_origin, clean_token


@pytest.mark.parametrize(
    ("origin", "cleaned"),
    [
        ("https://example.org", "https://example.org"),
        (" HTTPS://Example.ORG/ ", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://localhost:08080", "http://localhost:8080"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(origin: str, cleaned: str) -> None:
    assert clean_origin(origin) == cleaned
    assert AceBaseIPCServerConfig(allow_origins=(origin,)).allow_origins == (cleaned,)


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ("", "has no scheme"),
        ("example.org", "has no scheme"),
        ("example.org:8080", "has no scheme"),
        ("https://*.example.org", "has a wildcard"),
        ("https://example.org/app", "is not an origin"),
        ("https://example.org?x", "is not an origin"),
        ("https://user@example.org", "is not an origin"),
        ("https://", "is not an origin"),
        ("https://example.org:", "is not an origin"),
        ("https://example.org:70000", "has an impossible port"),
        ("https://münchen.example", "is not ASCII"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        AceBaseIPCServerConfig(allow_origins=(origin,))


@pytest.mark.parametrize(
    ("host", "cleaned"),
    [
        (" Relay.Example ", "relay.example"),
        ("relay", "relay"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:db8:0::1", "2001:db8::1"),
    ],
)
def test_a_host_is_a_name_or_an_address(host: str, cleaned: str) -> None:
    assert clean_host(host) == cleaned
    assert AceBaseIPCServerConfig(allow_hosts=(host,)).allow_hosts == (cleaned,)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("", "is not a host name"),
        ("relay.example:9163", "has a port"),
        ("[::1]:9163", "has a port"),
        ("http://relay.example", "is a URL"),
        ("relay.example/path", "is a URL"),
        ("*", "has a wildcard"),
        ("*.example", "has a wildcard"),
        ("relay.example.", "is not a host name"),
        ("münchen.example", "is not ASCII"),
    ],
)
def test_a_host_that_no_request_names_is_refused(host: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        AceBaseIPCServerConfig(allow_hosts=(host,))


@pytest.mark.parametrize(
    ("network", "cleaned"),
    [
        ("127.0.0.1", "127.0.0.1/32"),
        (" 10.0.0.0/8 ", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("Unix", "unix"),
    ],
)
def test_a_trusted_proxy_is_an_address_a_network_or_unix(network: str, cleaned: str) -> None:
    assert clean_network(network) == cleaned
    assert AceBaseIPCServerConfig(trust_proxy=(network,)).trust_proxy == (cleaned,)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("", "does not appear to be"),
        ("proxy.example", "does not appear to be"),
        ("10.0.0.1/8", "has host bits set"),
        ("::ffff:10.0.0.1", "as IPv4"),
        ("*", "does not appear to be"),
    ],
)
def test_what_is_no_network_of_proxies_is_refused(network: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"trust_proxy \(--trust-proxy\): .*{reason}"):
        AceBaseIPCServerConfig(trust_proxy=(network,))


@pytest.mark.parametrize("token", ["", " ", "\n", "\ufeff", "\ufeff\r\n"])
def test_an_empty_token_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match=r"^THE_NAME must not be empty"):
        clean_token(token, "THE_NAME")
