"""Certificates of ``ssl:`` and ``pfx:`` ports, which can be read again while these listen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IOpenSSLContextFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from acebase_ipc.server.endpoints import DEFAULT_BACKLOG, ParsedEndpoint, render
from acebase_ipc.server.pfx import TLSServerEndpoint

RENEWABLE: Final = frozenset({"ssl", "pfx"})
"""The kinds of endpoints whose certificates can be read again."""

_OF_PORT: Final[tuple[str, ...]] = ("port", "interface", "backlog")


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


@implementer(IOpenSSLContextFactory)
class Certificate:
    """The certificate and key of a port, which new connections use.

    :param parsed: an endpoint of one of the kinds :data:`RENEWABLE`.
    :raises Exception: what the endpoint's parser raises if a file cannot be used.
    """

    def __init__(self, parsed: ParsedEndpoint) -> None:
        self._parsed = parsed
        self._options = self.read()

    def read(self) -> Any:
        """Return the files as they are now, for :meth:`use`; raises as the constructor."""
        if self._parsed.kind == "ssl":
            _check_pem(self._parsed.arguments)
        recorder = _Recorder()
        endpoint: Any = serverFromString(recorder, self._parsed.description)
        if isinstance(endpoint, TLSServerEndpoint):
            return endpoint.options
        endpoint.listen(None)
        recorder.options.getContext()  # a key of another certificate fails here
        return recorder.options

    def use(self, options: Any) -> None:
        """Use what :meth:`read` has returned for connections from now on."""
        self._options = options

    def getContext(self) -> Any:
        """Return the context of a new connection; Twisted's name for it."""
        return self._options.getContext()


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
    if b"-----BEGIN CERTIFICATE-----" not in Path(path).read_bytes():
        hint = ": name its file with certKey=certificate.pem" if path == key_path else ""
        raise ValueError(f"{path} holds no certificate in PEM form{hint}")


def listen_with(
    certificate: Certificate, parsed: ParsedEndpoint, reactor: Any
) -> IStreamServerEndpoint:
    """Return the endpoint that *parsed* describes, with this *certificate*."""
    from twisted.internet.abstract import isIPv6Address

    given = {each: parsed.arguments[each] for each in _OF_PORT if each in parsed.arguments}
    kind = "tcp6" if isIPv6Address(given.get("interface", "")) else "tcp"
    arguments: dict[str, str] = {"backlog": str(DEFAULT_BACKLOG), **given}
    plain = serverFromString(reactor, render(kind, arguments))
    return TLSServerEndpoint(plain, certificate, IReactorTime(reactor, None))
