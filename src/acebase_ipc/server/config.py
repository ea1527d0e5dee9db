"""How a server is to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.endpoints import quoteStringArgument

from acebase_ipc.errors import ConfigError
from acebase_ipc.http.tokens import Rule, read_token_file
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import DEFAULT_MAX_PAYLOAD_TLS, Limits
from acebase_ipc.server.endpoints import is_secure

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9163

_SECRET_FILE = re.compile(r"(?:^|:)(?:privateKey|path|passphraseFile)=((?:[^:\\]|\\.)*)")


@dataclass(frozen=True, kw_only=True)
class SSLConfig:
    """Where the key and certificate for TLS are, as PEM files or as a PFX bundle.

    :param key_path: a PEM file with the private key.
    :param cert_path: a PEM file with the certificate; default: in *key_path*, too.
    :param pfx_path: a PKCS#12 file with both, instead of the two.
    :param passphrase: the passphrase of the PKCS#12 file.
    :raises ConfigError: unless it is one of the two.
    """

    key_path: str | None = None
    cert_path: str | None = None
    pfx_path: str | None = None
    passphrase: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.key_path is None) == (self.pfx_path is None):
            raise ConfigError("ssl needs either key_path (and cert_path) or pfx_path")
        if self.pfx_path is not None and self.cert_path is not None:
            raise ConfigError("ssl: a PFX file holds its certificate: leave out cert_path")
        if self.key_path is not None and self.passphrase is not None:
            raise ConfigError("ssl: an encrypted PEM key is not supported: use a PFX file")

    def endpoint(self, port: int, host: str) -> str:
        """The endpoint string that listens on *port* of *host*."""
        if self.pfx_path is not None:
            arguments = {"path": self.pfx_path, "passphrase": self.passphrase}
            return _endpoint("pfx", port, host, arguments)
        arguments = {"privateKey": self.key_path, "certKey": self.cert_path}
        return _endpoint("ssl", port, host, arguments)


def _endpoint(kind: str, port: int, host: str, arguments: dict[str, str | None]) -> str:
    arguments = {"interface": host, **arguments}
    pairs = [f"{k}={quoteStringArgument(v)}" for k, v in arguments.items() if v is not None]
    return ":".join([kind, str(port), *pairs])


@dataclass(frozen=True, kw_only=True)
class AceBaseIPCServerConfig(Limits):
    """How a server is to run; the fields of :class:`Limits` belong to it, too.

    :param host: the address to listen on; ``""`` for all. Default: loopback.
    :param port: the TCP port, 0 for any free one, ``None`` to listen on none.
    :param ssl: listen with TLS.
    :param endpoints: Twisted endpoint strings to listen on, instead of the three.
    :param token: the secret that clients have to present; default: none.
    :param token_file: a file with tokens, for all databases or for some, as
        :func:`acebase_ipc.http.tokens.read_token_file` reads it; read again on SIGHUP.
    :param dialect: the dialect of all peers; default: recognise it.
    :param introductions: greet AceBase workers on each other's behalf, so that
        late joiners learn the subscriptions of the others.
    :param allow_origins: web origins whose pages may use the relay, like
        ``https://example.org``; ``*`` for all. Default: none.
    :param allow_hosts: names, beside those of loopback, by which a relay on
        loopback may be addressed without a token.
    :raises ConfigError: for a value that cannot be used.
    """

    host: str = DEFAULT_HOST
    port: int | None = DEFAULT_PORT
    ssl: SSLConfig | None = None
    endpoints: tuple[str, ...] = field(default=(), repr=False)  # may hold a passphrase
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    dialect: Dialect | None = None
    introductions: bool = True
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.port is not None and not isinstance(self.port, int):
            raise ConfigError(f"port must be a number, not {self.port!r}")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        for name in ("endpoints", "allow_origins", "allow_hosts"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is a tuple of strings")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("give either token (--token) or token_file (--token-file)")
        if self.token is not None and not _is_text(self.token):
            raise ConfigError("token must be text, and UTF-8 can be made of it")
        if self.token is not None and not self.token.strip():
            raise ConfigError("token must not be empty: leave it out to need none")
        if self.dialect is not None and not isinstance(self.dialect, Dialect):
            raise ConfigError(f"dialect must be a Dialect, not {self.dialect!r}")

    def rules(self) -> tuple[Rule, ...] | None:
        """The tokens that let clients in, from the file as it is now.

        :raises ConfigError: if the token file cannot be used.
        """
        if self.token_file is not None:
            return read_token_file(self.token_file)
        return None if self.token is None else (Rule(self.token.encode()),)

    def secret_files(self) -> Iterator[str]:
        """The files that nobody else should be able to read."""
        if self.token_file is not None:
            yield self.token_file
        for description in filter(is_secure, self.descriptions):
            for path in _SECRET_FILE.findall(description):
                yield re.sub(r"\\(.)", r"\1", path)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The endpoint strings to listen on."""
        if self.endpoints or self.port is None:
            return tuple(self.endpoints)
        if self.ssl is not None:
            return (self.ssl.endpoint(self.port, self.host),)
        return (_endpoint("tcp", self.port, self.host, {}),)

    @property
    def secure(self) -> bool:
        """Whether one of the ports is TLS."""
        return any(map(is_secure, self.descriptions))

    @property
    def payload_limit(self) -> int:
        """The effective maxPayload, in UTF-16 code units."""
        if self.max_payload is None and self.secure:
            return DEFAULT_MAX_PAYLOAD_TLS
        return super().payload_limit


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False
