"""The endpoint that a URL names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from acebase_ipc.client.url import RelayURL
from acebase_ipc.errors import ConfigError

TrustRoot = Any
"""One of Twisted's trust roots; their interface is private there."""


def load_trust_root(path: str | PathLike[str]) -> TrustRoot:
    """Return a trust root: the certificates in a PEM file, and no others.

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
    """Return the endpoint that *url* names.

    :param trust_root: the authorities to trust; ``None`` for those of the system.
    """
    if url.socket is not None:
        return UNIXClientEndpoint(reactor, url.socket)
    plain = HostnameEndpoint(reactor, url.host, url.port)
    if not url.secure:
        return plain
    return wrapClientTLS(optionsForClientTLS(url.host, trust_root), plain, reactor)
