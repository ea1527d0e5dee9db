"""How a client gets a connection to the relay."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.client.url import RelayURL
from acebase_ipc.errors import ConfigError

TrustRoot = Any
"""One of Twisted's trust roots; their interface is private there."""


def load_trust_root(path: str | PathLike[str]) -> TrustRoot:
    """Trust the certificates in a PEM file, and no others.

    :raises ConfigError: if it cannot be read, or holds none.
    """
    try:
        certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"trust_root: {path} holds no certificates in PEM: {error}") from None
    return trustRootFromCertificates(
        [Certificate.load(each.public_bytes(Encoding.DER)) for each in certificates]
    )


def connect_to(url: RelayURL, reactor: Any, trust_root: TrustRoot | None) -> IStreamClientEndpoint:
    """The endpoint that *url* names.

    :param trust_root: whom to trust; ``None`` for those whom the system trusts.
    """
    if url.socket is not None:
        return UNIXClientEndpoint(reactor, url.socket)
    plain = HostnameEndpoint(reactor, url.host, url.port)
    if not url.secure:
        return plain
    return wrapClientTLS(optionsForClientTLS(url.host, trust_root), plain, reactor)


@implementer(IStreamClientEndpoint)
class Observed:
    """An endpoint that tells when it could not connect.

    :param failed: is called with the reason.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, failed: Callable[[Failure], object]
    ) -> None:
        self._endpoint = endpoint
        self._failed = failed

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, as the endpoint does."""

        def failed(failure: Failure) -> Failure:
            self._failed(failure)
            return failure

        connecting: Deferred[IProtocol] = self._endpoint.connect(factory)
        return connecting.addErrback(failed)

    def __repr__(self) -> str:
        return repr(self._endpoint)
