"""
The ``pfx:`` server endpoint: TLS from a PKCS#12 bundle (RFC 7292), a ``.pfx`` or ``.p12`` file.

::

    pfx:9163:path=server.pfx:passphraseFile=server.passphrase:interface=127.0.0.1

Any program that resolves an endpoint description may load this module, so what is slow to import
is imported where it is used.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import (
    IReactorCore,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

from acebase_ipc.server.endpoints import DEFAULT_BACKLOG, MAX_BACKLOG, MAX_PORT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime
    from twisted.internet.ssl import CertificateOptions

_USAGE = (
    "pfx: takes a port and path=, and may take passphrase= or passphraseFile=, interface= and "
    "backlog=, as in pfx:9163:path=server.pfx:passphraseFile=server.passphrase "
    "(within a value, ':' is written '\\:' and '\\' is written '\\\\')"
)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class PFXServerEndpointParser:
    """
    Makes a TLS server endpoint of a ``pfx:`` description, for ``serverFromString``.

    The description's arguments:

    * the port, 0 to 65535; 0 lets the system choose;
    * ``path``: the bundle, with an RSA, EC or Ed25519 key, its certificate and any chain;
    * ``passphrase``, or ``passphraseFile``, whose first line is the passphrase; neither for a
      bundle that is not encrypted. Other users of the machine see arguments: prefer the file;
    * ``interface``: the IPv4 or IPv6 address to listen on (``interface=\\:\\:1``); by default all
      IPv4 addresses;
    * ``backlog``: how many connections may wait to be accepted; by default 1024.

    Clients need TLS 1.2 or newer.
    """

    prefix = "pfx"

    def parseStreamServer(
        self, reactor: IReactorCore, *args: Any, **kwargs: Any
    ) -> IStreamServerEndpoint:
        """
        Return an endpoint that is ready to listen: the files are read here, once.

        Raises `ValueError` when an argument is missing, unknown or malformed, when a file cannot
        be read, and when the bundle cannot serve TLS. No message contains the passphrase.
        """
        try:
            inspect.signature(self._parse_server).bind(reactor, *args, **kwargs)
        except TypeError:
            # A stray argument can be the rest of a passphrase with an unescaped colon.
            raise ValueError(_USAGE) from None
        return self._parse_server(reactor, *args, **kwargs)

    def _parse_server(
        self,
        reactor: IReactorCore,
        port: str,
        *,
        path: str,
        passphrase: str | None = None,
        passphraseFile: str | None = None,
        interface: str = "",
        backlog: str = str(DEFAULT_BACKLOG),
    ) -> IStreamServerEndpoint:
        from twisted.internet.abstract import isIPv6Address
        from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
        from twisted.internet.interfaces import IReactorTime

        port_number = _number("port", port, MAX_PORT)
        backlog_length = _number("backlog", backlog, MAX_BACKLOG)
        if passphraseFile is not None:
            if passphrase is not None:
                raise ValueError("pfx: takes passphrase= or passphraseFile=, not both")
            passphrase = _first_line(passphraseFile)
        options = pfx_certificate_options(path, passphrase)
        tcp = TCP6ServerEndpoint if isIPv6Address(interface) else TCP4ServerEndpoint
        clock = IReactorTime(reactor, None)
        plain = tcp(reactor, port_number, backlog_length, interface)
        return TLSServerEndpoint(plain, options, clock)


@implementer(IStreamServerEndpoint)
@dataclass(frozen=True, slots=True)
class TLSServerEndpoint:
    """
    Listens where the endpoint `plain` does, and serves TLS there, with the contexts of `options`.

    From 26.4 on Twisted has the same as ``endpoints.wrapServerTLS``.
    """

    plain: IStreamServerEndpoint
    options: Any
    clock: IReactorTime | None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Return a Deferred of the port; `protocolFactory` makes the protocols inside TLS."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        secure = TLSMemoryBIOFactory(self.options, False, protocolFactory, self.clock)
        return self.plain.listen(secure)


def pfx_certificate_options(path: str, passphrase: str | None = None) -> CertificateOptions:
    """
    Return TLS options (1.2 or newer) with the key, certificate and chain of a PKCS#12 bundle.

    `path` is the bundle's file; `passphrase` is `None` when it is not encrypted.

    Raises `ValueError` when the bundle cannot be read or decrypted and when TLS cannot use what it
    holds; the message names the file and never contains the passphrase.
    """
    from OpenSSL import SSL
    from twisted.internet.ssl import CertificateOptions

    bundle = _load_bundle(path, passphrase)
    if bundle.cert is None:
        raise ValueError(
            f"pfx: no certificate in {path!r} matches its private key"
            if bundle.additional_certs
            else f"pfx: {path!r} holds no certificate"
        )
    # Twisted's annotations still ask for the pyOpenSSL types that pyOpenSSL deprecates.
    key: Any = bundle.key
    certificate: Any = bundle.cert.certificate
    chain: list[Any] = [link.certificate for link in bundle.additional_certs]
    options = CertificateOptions(privateKey=key, certificate=certificate, extraCertChain=chain)
    try:
        # Otherwise OpenSSL looks at key and certificates only when the first client connects.
        options.getContext()
    except SSL.Error as error:
        reasons = ", ".join(reason for _, _, reason in error.args[0])
        raise ValueError(
            f"pfx: TLS cannot use the key and the certificates of {path!r}: {reasons}"
        ) from error
    return options


def _load_bundle(path: str, passphrase: str | None) -> PKCS12KeyAndCertificates:
    """Read the bundle at `path` and make sure that it holds a key that TLS servers use."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    secret = None if passphrase is None else _encode_passphrase(passphrase)
    try:
        bundle = load_pkcs12(Path(path).read_bytes(), secret)
    except OSError as error:
        raise ValueError(f"pfx: cannot read path={path!r}: {error.strerror}") from error
    except UnsupportedAlgorithm as error:
        raise ValueError(f"pfx: {path!r} uses an unsupported algorithm: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"pfx: wrong passphrase for {path!r}, or not an intact PKCS#12 file"
        ) from error
    if bundle.key is None:
        raise ValueError(f"pfx: {path!r} holds no private key")
    if not isinstance(bundle.key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ValueError(f"pfx: the private key in {path!r} is neither RSA nor EC nor Ed25519")
    return bundle


def _encode_passphrase(passphrase: str) -> bytes:
    """Return what `load_pkcs12` takes: at a NUL it aborts and prints the passphrase."""
    encoded = passphrase.encode("utf-8", "ignore")
    # Compared rather than encoded strictly: a UnicodeEncodeError carries the passphrase along.
    if b"\0" in encoded or encoded.decode("utf-8") != passphrase:
        raise ValueError("pfx: the passphrase is not UTF-8 text without NUL")
    return encoded


def _first_line(path: str) -> str:
    try:
        with Path(path).open("rb") as lines:
            line = lines.readline()
    except OSError as error:
        raise ValueError(f"pfx: cannot read passphraseFile={path!r}: {error.strerror}") from error
    # Editors on Windows begin the file with a mark; what is not UTF-8 is refused later.
    return line.decode("utf-8-sig", "surrogateescape").removesuffix("\n").removesuffix("\r")


def _number(name: str, text: str, highest: int) -> int:
    """Raises `ValueError` without `text`, which can be the rest of a passphrase with a colon."""
    if re.fullmatch("[0-9]{1,10}", text) and int(text) <= highest:
        return int(text)
    raise ValueError(f"pfx: the {name} is not a whole number from 0 to {highest}")
