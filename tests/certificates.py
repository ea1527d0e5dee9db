"""
Keys, certificates and PKCS#12 bundles for tests, written into a directory of the test's own.

    certificate = make_certificate(tmp_path)          # self-signed, EC P-256
    certificate = make_chain(tmp_path, key="rsa")     # root -> intermediate -> server
    f"ssl:0:privateKey={certificate.pem}"             # key, certificate and chain in one file
    make_pfx(certificate, passphrase="secret")        # -> Path of a bundle
    make_encrypted_pem(certificate, "secret")         # -> Path of a PEM file, its key encrypted

All are valid for ``localhost``, ``127.0.0.1`` and ``::1``, from 2020 to 2100. A client trusts
`Certificate.root`. Files begin with `name`: give different names to certificates that share a
directory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KeyType = Literal["ec", "rsa", "ed25519"]
PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey

KEY_TYPES: tuple[KeyType, ...] = ("ec", "rsa", "ed25519")

_GENERATE: dict[KeyType, Callable[[], PrivateKey]] = {
    "ec": lambda: generate_ec(SECP256R1()),
    "rsa": lambda: generate_rsa(65537, 2048),
    "ed25519": Ed25519PrivateKey.generate,
}

_NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's key and certificate as PEM files."""

    pem: Path
    """The private key, the certificate and the chain in one file, in this order."""

    key: Path
    """The private key, not encrypted."""

    certificate: Path
    """The server's certificate alone."""

    chain: Path
    """The intermediate certificates; empty for a self-signed certificate."""

    root: Path
    """What a client has to trust: the root certificate, or the self-signed certificate itself."""


@dataclass(frozen=True, slots=True)
class _Issued:
    key: PrivateKey
    certificate: x509.Certificate


def make_certificate(
    directory: Path,
    key: KeyType = "ec",
    name: str = "server",
    since: datetime = _NOT_BEFORE,
    until: datetime = _NOT_AFTER,
) -> Certificate:
    """Make a self-signed server certificate in `directory`."""
    server = _issue("localhost", key, None, authority=True, server=True, since=since, until=until)
    return _write(directory, name, server, chain=[], root=server)


def make_expired(directory: Path, name: str = "expired") -> Certificate:
    """Make a self-signed server certificate in `directory` that was valid in 2020 only."""
    return make_certificate(directory, name=name, until=datetime(2021, 1, 1, tzinfo=UTC))


def make_chain(
    directory: Path, key: KeyType = "ec", name: str = "server", until: datetime = _NOT_AFTER
) -> Certificate:
    """Make a root, an intermediate signed by it, and a server certificate signed by that.

    The intermediate one is valid `until` then.
    """
    root = _issue(f"{name} root", key, issuer=None, authority=True)
    intermediate = _issue(f"{name} intermediate", key, issuer=root, authority=True, until=until)
    server = _issue("localhost", key, issuer=intermediate, server=True)
    return _write(directory, name, server, chain=[intermediate], root=root)


def make_pfx(certificate: Certificate, passphrase: str | None = None) -> Path:
    """Make a PKCS#12 bundle of key, certificate and chain; without passphrase, not encrypted."""
    return _write_bytes(
        certificate.pem.with_suffix(".pfx"),
        serialize_key_and_certificates(
            b"server",
            _load_key(certificate),
            x509.load_pem_x509_certificate(certificate.certificate.read_bytes()),
            _load_chain(certificate),
            _encryption(passphrase),
        ),
    )


def make_encrypted_pem(certificate: Certificate, passphrase: str) -> Path:
    """Make a PEM file of the encrypted key, the certificate and the chain."""
    encrypted = _load_key(certificate).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, _encryption(passphrase)
    )
    return _write_bytes(
        certificate.pem.with_suffix(".encrypted.pem"),
        encrypted + certificate.certificate.read_bytes() + certificate.chain.read_bytes(),
    )


def _issue(
    common_name: str,
    key_type: KeyType,
    issuer: _Issued | None,
    authority: bool = False,
    server: bool = False,
    since: datetime = _NOT_BEFORE,
    until: datetime = _NOT_AFTER,
) -> _Issued:
    key = _GENERATE[key_type]()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(_key_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if server:
        builder = builder.add_extension(_LOCALHOST, critical=False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    # Ed25519 brings its own hash (RFC 8032).
    algorithm = None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256()
    return _Issued(key, builder.sign(signer, algorithm))


_LOCALHOST = x509.SubjectAlternativeName(
    [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
)


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    directory: Path, name: str, server: _Issued, chain: list[_Issued], root: _Issued
) -> Certificate:
    key = server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = server.certificate.public_bytes(Encoding.PEM)
    links = b"".join(link.certificate.public_bytes(Encoding.PEM) for link in chain)
    return Certificate(
        pem=_write_bytes(directory / f"{name}.pem", key + certificate + links),
        key=_write_bytes(directory / f"{name}.key.pem", key),
        certificate=_write_bytes(directory / f"{name}.certificate.pem", certificate),
        chain=_write_bytes(directory / f"{name}.chain.pem", links),
        root=_write_bytes(
            directory / f"{name}.root.pem", root.certificate.public_bytes(Encoding.PEM)
        ),
    )


def _write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _load_key(certificate: Certificate) -> PrivateKey:
    key = load_pem_private_key(certificate.key.read_bytes(), None)
    assert isinstance(key, PrivateKey)
    return key


def _load_chain(certificate: Certificate) -> list[x509.Certificate]:
    content = certificate.chain.read_bytes()
    return x509.load_pem_x509_certificates(content) if content else []


def _encryption(passphrase: str | None) -> KeySerializationEncryption:
    return NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
