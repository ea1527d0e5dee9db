"""The first steps of ``doctor``: DNS, TCP, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cryptography import x509

from acebase_ipc.cli.diagnosis.certificates import RENEW, examine_dates, now
from acebase_ipc.cli.diagnosis.findings import Finding, error, ok, warning, without_ipc
from acebase_ipc.cli.diagnosis.probes import TIMEOUT, Target, certificates
from acebase_ipc.cli.output import one_line
from acebase_ipc.server.expiry import CertificateDates, dates_of

_EXPIRED: Final = 10
_UNTRUSTED: Final = {
    _EXPIRED: RENEW,
    18: "name the certificate with --ca, and to AceBase with NODE_EXTRA_CA_CERTS",
    19: "name the root certificate with --ca, and to AceBase with NODE_EXTRA_CA_CERTS",
    20: "the server must send its intermediate certificates, too (the relay's ssl: reads them"
    " from extraCertChain=); a root of your own is named with --ca, and to AceBase with"
    " NODE_EXTRA_CA_CERTS",
    62: "use a host name that the certificate holds, or a certificate for this one",
    64: "use a host name that the certificate holds, or a certificate for this address",
}
"""What to do about OpenSSL's reasons (X509_V_ERR_…) to refuse a certificate."""


def examine_address(target: Target) -> Iterator[Finding]:
    """Yield whether the host has addresses, and whether they accept connections."""
    url = target.url
    if url.socket is not None:
        yield _examine_socket(target, url.socket)
        return
    try:
        addresses = target.resolve()
    except OSError as fault:
        yield error(
            "DNS",
            f"{url.host!r} has no address: {_reason(fault)}",
            "check the host name, and this machine's resolver",
        )
        return
    yield ok("DNS", f"{url.host} is {', '.join(host for host, _ in addresses)}")
    refused = []
    for address in addresses:
        try:
            socket.create_connection(address, TIMEOUT).close()
        except OSError as fault:
            refused.append(f"{address[0]} port {address[1]}: {_reason(fault)}")
    if len(refused) == len(addresses):
        yield error(
            "TCP",
            f"no connection to {'; '.join(refused)}",
            "start the relay; check its --port (by default it listens on loopback only), and"
            " firewalls on the way",
        )
    elif refused:
        yield warning(
            "TCP",
            f"no connection to {'; '.join(refused)}",
            "Node.js 18 tries only the first address of a name: let the relay listen on all, or"
            " write the address that works in place of the host name",
        )
    else:
        yield ok("TCP", f"port {url.port} accepts connections")


def _examine_socket(target: Target, path: str) -> Finding:
    try:
        target.connect().close()
    except OSError as fault:
        return error(
            "socket",
            f"no connection to {path}: {_reason(fault)}",
            "start the relay with --port unix:PATH; its mode (660 by default) says who may connect",
        )
    return ok("socket", f"{path} accepts connections")


def examine_tls(target: Target) -> Iterator[Finding]:
    """Yield whether TLS works, and until when."""
    if not target.url.secure:
        return
    try:
        with target.connect_tls() as connected:
            version, presented = connected.version(), connected.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as fault:
        yield error(
            "TLS",
            f"the certificate is not accepted: {fault.verify_message.rstrip('.')}",
            _UNTRUSTED.get(fault.verify_code, "install a certificate that clients accept"),
        )
        if fault.verify_code == _EXPIRED:
            for each in certificates(target):
                yield from examine_dates("TLS", _dates(each), now())
        yield without_ipc()
        return
    except OSError as fault:
        yield error("TLS", f"TLS fails: {_reason(fault)}", _tls_advice(target))
        return
    yield ok("TLS", f"{version}, and the certificate is trusted")
    if presented is not None:
        yield from examine_dates("TLS", _dates(presented), now())


def _dates(certificate: bytes) -> CertificateDates:
    """Return the dates of a *certificate* in DER."""
    return dates_of("", [x509.load_der_x509_certificate(certificate)])


def _tls_advice(target: Target) -> str:
    """Return what to do if the port does not speak TLS, or not as it should."""
    plain = replace(target, url=replace(target.url, secure=False))
    try:
        with plain.connect() as connected:
            connected.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if connected.recv(5) == b"HTTP/":
                return "the port speaks no TLS: write ws:// in place of wss://"
    except OSError:
        pass
    return "check that the port is the relay's, and that it speaks TLS 1.2 or newer"


def _reason(fault: OSError) -> str:
    if isinstance(fault, ssl.SSLError):
        return fault.reason or one_line(fault)
    return fault.strerror or one_line(fault)
