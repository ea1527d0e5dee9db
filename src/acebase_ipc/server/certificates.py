"""Certificates of ports with TLS, which can be read again while these listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
    IReactorTime,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.endpoints import DEFAULT_BACKLOG, OF_SOCKET, ParsedEndpoint, render
from acebase_ipc.server.expiry import CertificateDates, dates_of
from acebase_ipc.server.inherited import InheritedEndpoint
from acebase_ipc.server.lines import printable
from acebase_ipc.server.pfx import TLSServerEndpoint

if TYPE_CHECKING:
    from OpenSSL import SSL

RENEWABLE: Final = frozenset({"ssl", "pfx", "tls"})
"""The kinds of endpoints whose certificates can be read again."""

_OF_PORT: Final[tuple[str, ...]] = ("port", "interface", "backlog")

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read from the files of a port.

    :ivar connect: returns the server's end of a new TLS connection.
    :ivar dates: when its certificates are valid, by file.
    """

    connect: Callable[[Any], SSL.Connection]
    dates: tuple[CertificateDates, ...]


@implementer(IOpenSSLServerConnectionCreator)
class Certificate:
    """The certificate and key of a port, which new connections use.

    :param parsed: an endpoint of one of the kinds :data:`RENEWABLE`.
    :raises Exception: what the endpoint's parser raises if a file cannot be used.
    """

    def __init__(self, parsed: ParsedEndpoint) -> None:
        self._parsed = parsed
        self._loaded = self.read()

    @property
    def dates(self) -> tuple[CertificateDates, ...]:
        """When the certificates that are in use are valid, by file."""
        return self._loaded.dates

    def read(self) -> Loaded:
        """Return the files as they are now, for :meth:`use`; raises as the constructor."""
        return _READERS[self._parsed.kind](self._parsed)

    def use(self, loaded: Loaded) -> None:
        """Use what :meth:`read` has returned for connections from now on."""
        self._loaded = loaded

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the server's end of a new connection; Twisted's name for it."""
        return self._loaded.connect(protocol)


class _Recorder:
    """A reactor that opens no port, but tells with which certificate it was to listen."""

    options: Any = None

    def listenSSL(
        self,
        port: int,
        factory: object,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> None:
        """Receive what an endpoint would listen with."""
        self.options = contextFactory


def _read_ssl(parsed: ParsedEndpoint) -> Loaded:
    arguments = parsed.arguments
    _check_pem(arguments)
    recorder = _Recorder()
    _endpoint(parsed, recorder).listen(None)
    path, chain = arguments.get("certKey", arguments["privateKey"]), arguments.get("extraCertChain")
    # Of this file Twisted uses the first one alone.
    dates = [dates_of(printable(path), _read_certificates(path)[:1])]
    if chain is not None:
        dates.append(dates_of(printable(chain), _read_certificates(chain)))
    return Loaded(_connect_with(recorder.options), tuple(dates))


def _read_pfx(parsed: ParsedEndpoint) -> Loaded:
    options = _endpoint(parsed, _Recorder()).options
    certificates = [options.certificate, *options.extraCertChain]
    dates = dates_of(printable(parsed.arguments["path"]), certificates)
    return Loaded(_connect_with(options), (dates,))


def _read_tls(parsed: ParsedEndpoint) -> Loaded:
    directory = Path(parsed.arguments["path"])
    if not directory.is_dir():
        raise ConfigError(
            f"there is no directory {directory}: write tls:DIRECTORY:9163, where DIRECTORY holds"
            " a HOST.pem for each host name, or use ssl:"
        )
    creator = _endpoint(parsed, _Recorder()).connectionCreator
    files = [each for each in sorted(directory.rglob("*.pem")) if _BEGIN in each.read_bytes()]
    if not files:
        raise ValueError(f"{directory} holds no HOST.pem with a key and its certificate")
    dates = [dates_of(printable(str(each)), _read_certificates(each)) for each in files]
    return Loaded(creator.serverConnectionForTLS, tuple(dates))


_READERS: Final[dict[str, Callable[[ParsedEndpoint], Loaded]]] = {
    "ssl": _read_ssl,
    "pfx": _read_pfx,
    "tls": _read_tls,
}


def _endpoint(parsed: ParsedEndpoint, recorder: _Recorder) -> Any:
    """Return Twisted's endpoint, which has read the files; its port is of no importance."""
    of_files = {
        name: value
        for name, value in parsed.arguments.items()
        if name not in (*_OF_PORT, *(OF_SOCKET if parsed.is_inherited else ()))
    }
    return serverFromString(recorder, render(parsed.kind, {**of_files, "port": "0"}))


def _connect_with(options: Any) -> Callable[[Any], SSL.Connection]:
    from OpenSSL import SSL

    options.getContext()  # a key of another certificate fails here

    def connect(protocol: Any) -> SSL.Connection:
        return SSL.Connection(options.getContext(), None)

    return connect


def _check_pem(arguments: dict[str, str]) -> None:
    """Look whether the PEM files hold what they should, as OpenSSL does not say what is missing.

    :raises ValueError: if they do not.
    :raises OSError: if one cannot be read.
    """
    key_path = arguments["privateKey"]
    key = Path(key_path).read_bytes()
    if b"PRIVATE KEY-----" not in key:
        raise ValueError(f"{key_path} holds no private key in PEM form")
    path = arguments.get("certKey", key_path)
    if _BEGIN not in Path(path).read_bytes():
        hint = ": name its file with certKey=certificate.pem" if path == key_path else ""
        raise ValueError(f"{path} holds no certificate in PEM form{hint}")


def _read_certificates(path: str | Path) -> list[Any]:
    from cryptography import x509

    return x509.load_pem_x509_certificates(Path(path).read_bytes())


def listen_with(
    certificate: Certificate, parsed: ParsedEndpoint, reactor: Any
) -> IStreamServerEndpoint:
    """Return the endpoint that *parsed* describes, with this *certificate*."""
    from twisted.internet.abstract import isIPv6Address

    names = OF_SOCKET if parsed.is_inherited else _OF_PORT
    given = {name: parsed.arguments[name] for name in names if name in parsed.arguments}
    plain: IStreamServerEndpoint
    if parsed.is_inherited:
        plain = InheritedEndpoint(reactor, given)
    else:
        kind = "tcp6" if isIPv6Address(given.get("interface", "")) else "tcp"
        plain = serverFromString(reactor, render(kind, {"backlog": str(DEFAULT_BACKLOG), **given}))
    return with_tls(plain, certificate, reactor)


def with_tls(
    plain: IStreamServerEndpoint, certificate: Certificate, reactor: Any
) -> IStreamServerEndpoint:
    """Return the endpoint *plain* with TLS, with this *certificate*."""
    return TLSServerEndpoint(plain, certificate, IReactorTime(reactor, None))
