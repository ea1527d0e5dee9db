"""How a server is to run: values, endpoint strings, and what is secret in them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import _parse, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, Limits, SSLConfig
from acebase_ipc.errors import ConfigError
from acebase_ipc.http.tokens import Rule
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import KIB, MIB
from acebase_ipc.server.endpoints import parse_endpoint, redact
from tests.certificates import make_certificate, make_pfx

PEM = SSLConfig(key_path="key.pem", cert_path="cert.pem")
ONE_PEM = SSLConfig(key_path="key.pem")
PFX = SSLConfig(pfx_path="server.pfx", passphrase="open:sesame")

values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
paths = values.filter(bool)


def config_with(**arguments: Any) -> AceBaseIPCServerConfig:
    return AceBaseIPCServerConfig(**arguments)


# Values


def test_a_server_is_open_to_this_machine_only_unless_told_otherwise() -> None:
    config = AceBaseIPCServerConfig()
    assert config.descriptions == ("tcp:9163:interface=127.0.0.1",)
    assert config.effective_limits.payload_limit == 16 * KIB
    assert config.rules() is None
    assert (config.dialect, config.introductions) == (None, True)
    assert (config.allow_origins, config.allow_hosts, config.trust_proxy) == ((), (), ())


def test_it_has_limits() -> None:
    limits = Limits(max_payload=77, session_timeout=0)
    assert AceBaseIPCServerConfig(limits=limits).limits is limits
    assert AceBaseIPCServerConfig().limits == Limits()
    with pytest.raises(TypeError):
        config_with(max_message=1)


def test_max_payload_may_be_given_by_the_original_servers_name() -> None:
    config = AceBaseIPCServerConfig(max_payload=77, limits=Limits(max_message=5))
    assert config.limits == Limits(max_payload=77, max_message=5)
    assert AceBaseIPCServerConfig(max_payload=77, limits=Limits(max_payload=77)).limits == Limits(
        max_payload=77
    )
    with pytest.raises(ConfigError, match=r"max_payload is 77, but limits\.max_payload is 78"):
        AceBaseIPCServerConfig(max_payload=77, limits=Limits(max_payload=78))


def test_a_configuration_can_be_changed_with_replace() -> None:
    config = AceBaseIPCServerConfig(max_payload=77, ssl=PEM)
    changed = dataclasses.replace(config, port=1)
    assert (changed.port, changed.ssl, changed.limits) == (1, PEM, Limits(max_payload=77))


def test_it_is_a_value() -> None:
    assert AceBaseIPCServerConfig(port=1) == AceBaseIPCServerConfig(port=1)
    assert AceBaseIPCServerConfig(port=1) != AceBaseIPCServerConfig(port=2)
    with pytest.raises(AttributeError):
        AceBaseIPCServerConfig().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("port", [0, 1, 9163, 65535])
def test_a_port_has_16_bits(port: int) -> None:
    assert AceBaseIPCServerConfig(port=port).descriptions == (f"tcp:{port}:interface=127.0.0.1",)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"port": -1}, "port must be from 0 to 65535, not -1"),
        ({"port": 65536}, "port must be from 0 to 65535, not 65536"),
        ({"token": ""}, "token must not be empty"),
        ({"token": " \t"}, "token must not be empty"),
        ({"token": "a", "token_file": "b"}, "either token .* or token_file"),
        ({"state_dir": ""}, "state_dir must not be empty"),
        ({"state_dir": "a", "lock_recovery": False}, "state_dir .* needs lock_recovery"),
        ({"endpoints": "tcp:1"}, "endpoints is a tuple of strings"),
        ({"allow_origins": "*"}, "allow_origins is a tuple of strings"),
        ({"allow_hosts": "x"}, "allow_hosts is a tuple of strings"),
        ({"trust_proxy": "::/0"}, "trust_proxy is a tuple of strings"),
        (
            {"endpoints": ("haproxy:pfx:1:passphrase=hush",)},
            "'haproxy:pfx:1:passphrase=…' needs trust_proxy .*: the addresses of",
        ),
        (
            {"endpoints": ("tcp:1", "haproxy:unix:/a"), "trust_proxy": ("::/0",)},
            "'haproxy:unix:/a' needs trust_proxy .*: unix",
        ),
        ({"max_payload": 0}, "max_payload must be from 1 to "),
        ({"max_payload": "16KiB"}, "max_payload must be a number of UTF-16 code units"),
    ],
)
def test_a_value_that_cannot_be_used(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        config_with(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dialect": "acebase"},
        {"port": "9163"},
        {"port": 9163.5},
        {"token": b"secret"},
        {"token": "\N{CJK UNIFIED IDEOGRAPH-5BC6}" + chr(0xDCFF)},
    ],
)
def test_a_value_of_another_type_cannot_be_used(arguments: dict[str, Any]) -> None:
    """With the dialect as a string, for example, every peer would be documented."""
    with pytest.raises(ConfigError):
        config_with(**arguments).rules()


def test_the_dialect_is_a_dialect() -> None:
    assert AceBaseIPCServerConfig(dialect=Dialect.ACEBASE).dialect is Dialect.ACEBASE


def test_unknown_values_are_refused() -> None:
    with pytest.raises(TypeError):
        config_with(maxPayload=1)


def test_no_secret_is_shown() -> None:
    config = AceBaseIPCServerConfig(token="hush", ssl=PFX)
    for shown in (repr(config), str(config), repr(PFX)):
        assert "hush" not in shown
        assert "sesame" not in shown


# Tokens


def test_the_token_opens_every_database() -> None:
    assert AceBaseIPCServerConfig(token="密碼").rules() == (Rule("密碼".encode()),)


def test_the_token_file_is_read_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    config = AceBaseIPCServerConfig(token_file=str(file))
    with pytest.raises(ConfigError, match="No such file"):
        config.rules()
    file.write_text("one")
    assert config.rules() == (Rule(b"one"),)
    file.write_text("mydb_* two")
    assert config.rules() == (Rule(b"two", "mydb_*"),)


# Where to listen


@pytest.mark.parametrize(
    ("ssl", "reason"),
    [
        ({}, "either key_path .* or pfx_path"),
        ({"cert_path": "c"}, "either key_path .* or pfx_path"),
        ({"passphrase": "p"}, "either key_path .* or pfx_path"),
        ({"key_path": "k", "pfx_path": "p"}, "either key_path .* or pfx_path"),
        ({"pfx_path": "p", "cert_path": "c"}, "leave out cert_path"),
        ({"key_path": "k", "passphrase": "p"}, "use a PFX file"),
        ({"key_path": "k", "cert_path": "c", "passphrase": "p"}, "use a PFX file"),
    ],
)
def test_tls_is_pem_or_pfx(ssl: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SSLConfig(**ssl)


@pytest.mark.parametrize(
    ("ssl", "host", "description"),
    [
        (None, "", "tcp:9163:interface="),
        (None, "::1", r"tcp:9163:interface=\:\:1"),
        (ONE_PEM, "127.0.0.1", "ssl:9163:interface=127.0.0.1:privateKey=key.pem"),
        (PEM, "::1", r"ssl:9163:interface=\:\:1:privateKey=key.pem:certKey=cert.pem"),
        (PFX, "::", r"pfx:9163:interface=\:\::path=server.pfx:passphrase=open\:sesame"),
        (
            SSLConfig(pfx_path=r"C:\keys\a=b.pfx"),
            "::1",
            r"pfx:9163:interface=\:\:1:path=C\:\\keys\\a=b.pfx",
        ),
    ],
)
def test_host_port_and_ssl_make_an_endpoint_string(
    ssl: SSLConfig | None, host: str, description: str
) -> None:
    config = AceBaseIPCServerConfig(host=host, ssl=ssl)
    assert config.descriptions == (description,)


def parsed(config: AceBaseIPCServerConfig) -> tuple[list[str], dict[str, str]]:
    """An endpoint string as Twisted understands it."""
    (description,) = config.descriptions
    positional, named = _parse(description)
    return positional, named


@given(values, st.integers(0, 65535), paths, st.none() | paths)
@example("::1", 0, "a:b\\", "\\:=")
def test_any_path_and_host_arrives_in_the_ssl_endpoint(
    host: str, port: int, key_path: str, cert_path: str | None
) -> None:
    ssl = SSLConfig(key_path=key_path, cert_path=cert_path)
    named = {"interface": host, "privateKey": key_path}
    if cert_path is not None:
        named["certKey"] = cert_path
    config = AceBaseIPCServerConfig(host=host, port=port, ssl=ssl)
    assert parsed(config) == (["ssl", str(port)], named)


@given(values, paths, st.none() | values)
@example("fe80::1%eth0", "a:b=c:passphrase=d", "\\")
def test_any_path_and_passphrase_arrives_in_the_pfx_endpoint(
    host: str, path: str, passphrase: str | None
) -> None:
    named = {"interface": host, "path": path}
    if passphrase is not None:
        named["passphrase"] = passphrase
    ssl = SSLConfig(pfx_path=path, passphrase=passphrase)
    assert parsed(config_with(host=host, ssl=ssl)) == (["pfx", "9163"], named)


def test_endpoints_come_instead_of_host_port_and_ssl() -> None:
    endpoints = ("tcp:1", "unix:/run/acebase.sock")
    config = AceBaseIPCServerConfig(host="::1", port=5, ssl=PEM, endpoints=endpoints)
    assert config.descriptions == endpoints
    assert not config.is_secure


def test_a_server_may_listen_on_none() -> None:
    config = AceBaseIPCServerConfig(port=None, ssl=PEM)
    assert (config.descriptions, config.is_secure) == ((), False)
    assert config.effective_limits.payload_limit == 16 * KIB
    assert AceBaseIPCServerConfig(port=None, endpoints=("tcp:1",)).descriptions == ("tcp:1",)


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "::"])
def test_the_endpoint_listens_on_the_host(host: str) -> None:
    """The original binds all interfaces whatever its host says."""
    reactor: Any = MemoryReactorClock()
    (description,) = AceBaseIPCServerConfig(host=host, port=77).descriptions
    serverFromString(reactor, description).listen(Factory())
    ((port, _, _, interface),) = reactor.tcpServers
    assert (port, interface) == (77, host)


@pytest.fixture
def make_ssl(tmp_path: Path) -> Callable[[str], SSLConfig]:
    """Real files in a directory whose name has to be escaped."""
    directory = tmp_path / "a:b=c\\d"
    directory.mkdir()
    certificate = make_certificate(directory)

    def make(kind: str) -> SSLConfig:
        if kind == "pfx":
            pfx = make_pfx(certificate, "open:sesame\\")
            return SSLConfig(pfx_path=str(pfx), passphrase="open:sesame\\")
        if kind == "pem":
            return SSLConfig(key_path=str(certificate.pem))
        return SSLConfig(key_path=str(certificate.key), cert_path=str(certificate.certificate))

    return make


@pytest.mark.parametrize("kind", ["pem", "key and certificate", "pfx"])
def test_real_files_are_found(make_ssl: Callable[[str], SSLConfig], kind: str) -> None:
    reactor: Any = MemoryReactorClock()
    config = AceBaseIPCServerConfig(host="127.0.0.1", port=77, ssl=make_ssl(kind))
    serverFromString(reactor, config.descriptions[0]).listen(Factory())
    listening = [*reactor.tcpServers, *reactor.sslServers]
    assert [(each[0], "127.0.0.1" in each) for each in listening] == [(77, True)]


# TLS


@pytest.mark.parametrize(
    ("description", "secure"),
    [
        ("tcp:9163", False),
        ("tcp:9163:interface=127.0.0.1", False),
        ("tcp6:9163", False),
        ("unix:/run/ssl.sock", False),
        ("unix:ssl", False),
        ("systemd:domain=INET:index=0", False),
        ("nonsense", False),
        ("sslx:9163", False),
        ("tcp:1:interface=ssl", False),
        ("haproxy:tcp:9163", False),
        ("ssl:9163:privateKey=key.pem", True),
        ("tls:example.org:9163", True),
        ("pfx:9163:path=server.pfx", True),
        ("txsni:certs:tcp:9163", True),
        ("le:certs:tcp:9163", True),
        ("lets:certs:tcp:9163", True),
        ("haproxy:ssl:9163:a", True),
        ("haproxy:haproxy:pfx:9163:path=x", True),
    ],
)
def test_an_endpoint_is_secure_if_it_is_one_of_tls(description: str, secure: bool) -> None:
    config = AceBaseIPCServerConfig(endpoints=(description,), trust_proxy=("127.0.0.1",))
    assert config.is_secure is secure
    assert config.effective_limits.payload_limit == (16 * MIB if secure else 16 * KIB)


@pytest.mark.parametrize("description", ["PFX:9163:path=x", "Tls:x", "HAProxy:ssl:9163:a"])
def test_the_case_of_a_prefix_does_not_matter(description: str) -> None:
    assert parse_endpoint(description).is_secure


@pytest.mark.parametrize("ssl", [PEM, ONE_PEM, PFX])
def test_published_clients_cannot_post_over_tls(ssl: SSLConfig) -> None:
    config = AceBaseIPCServerConfig(ssl=ssl)
    assert (config.is_secure, config.effective_limits.payload_limit) == (True, 16 * MIB)


def test_one_port_with_tls_suffices_for_the_larger_default() -> None:
    endpoints = ("tcp:1", "ssl:2:privateKey=key.pem")
    assert AceBaseIPCServerConfig(endpoints=endpoints).effective_limits.payload_limit == 16 * MIB


@pytest.mark.parametrize("max_payload", [1, 16 * KIB, 32 * MIB])
def test_what_is_configured_goes_before_the_default(max_payload: int) -> None:
    for ssl in (None, PEM):
        config = AceBaseIPCServerConfig(max_payload=max_payload, ssl=ssl)
        assert config.effective_limits.payload_limit == max_payload


# Secrets


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (AceBaseIPCServerConfig(), []),
        (AceBaseIPCServerConfig(token="a"), []),
        (AceBaseIPCServerConfig(token_file="tokens"), ["tokens"]),
        (AceBaseIPCServerConfig(ssl=PEM), ["key.pem"]),
        (AceBaseIPCServerConfig(ssl=PFX), ["server.pfx"]),
        (AceBaseIPCServerConfig(ssl=SSLConfig(key_path="a:b\\c")), ["a:b\\c"]),
        (
            AceBaseIPCServerConfig(
                token_file="tokens",
                endpoints=("pfx:1:path=a.pfx:passphraseFile=b", "ssl:2:privateKey=c:certKey=d"),
            ),
            ["tokens", "a.pfx", "b", "c"],
        ),
        (AceBaseIPCServerConfig(endpoints=("unix:/x:path=y",)), []),
        (
            AceBaseIPCServerConfig(endpoints=("haproxy:ssl:1:k.pem",), trust_proxy=("::/0",)),
            ["k.pem"],
        ),
    ],
)
def test_files_that_hold_secrets(config: AceBaseIPCServerConfig, files: list[str]) -> None:
    assert list(config.secret_files) == list(map(os.path.abspath, files))


@pytest.mark.parametrize(
    ("description", "redacted"),
    [
        ("tcp:9163", "tcp:9163"),
        ("pfx:1:path=a:passphrase=hush", "pfx:1:path=a:passphrase=…"),
        ("pfx:1:passphrase=hush:path=a", "pfx:1:passphrase=…:path=a"),
        (r"pfx:1:passphrase=hu\:sh\\:path=a", "pfx:1:passphrase=…:path=a"),
        ("pfx:1:passphrase=:path=a", "pfx:1:passphrase=…:path=a"),
        ("pfx:1:path=a:passphraseFile=b", "pfx:1:path=a:passphraseFile=b"),
        ("haproxy:pfx:1:passphrase=hush", "haproxy:pfx:1:passphrase=…"),
    ],
)
def test_a_description_is_shown_without_its_passphrase(description: str, redacted: str) -> None:
    assert redact(description) == redacted


@given(paths, st.text("hush:\\=", min_size=1))
def test_no_passphrase_is_left(path: str, passphrase: str) -> None:
    ssl = SSLConfig(pfx_path=path, passphrase=passphrase)
    empty = SSLConfig(pfx_path=path, passphrase="")
    assert redact(ssl.endpoint(1, "::1")) == redact(empty.endpoint(1, "::1"))


def refusal(description: str) -> str:
    reactor: Any = MemoryReactorClock()
    with pytest.raises(ConfigError) as caught:
        AceBaseIPCServer(AceBaseIPCServerConfig(endpoints=(description,)), reactor)
    return str(caught.value)


def test_an_endpoint_that_cannot_be_used_is_named_without_its_passphrase() -> None:
    told = refusal("pfx:1:path=missing.pfx:passphrase=hush")
    assert re.match(r"cannot listen on 'pfx:1:path=missing\.pfx:passphrase=…': pfx: ", told)
    assert "hush" not in told


def test_no_half_of_a_passphrase_is_shown_either() -> None:
    assert "sesame" not in refusal("pfx:1:path=missing.pfx:passphrase=open:sesame")
