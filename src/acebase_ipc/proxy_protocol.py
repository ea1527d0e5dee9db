"""The PROXY protocol, versions 1 and 2: ``haproxy:`` endpoints.

In place of Twisted's own, which closes a connection whose header arrives in several pieces or
is ``PROXY UNKNOWN``, as HAProxy sends it for clients of a unix socket. The specification:
https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container
from dataclasses import dataclass
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

V1_PREFIX: Final = b"PROXY"
V2_PREFIX: Final = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V1: Final = 107
"""Bytes of the longest header of version 1."""

_V2_HEAD: Final = struct.Struct("!12sBBH")


@dataclass(frozen=True, slots=True)
class Header:
    """What a PROXY header tells.

    :ivar source: the client's address; ``None`` if the proxy does not tell it.
    :ivar destination: the address that the client has connected to.
    :ivar size: the bytes of the header.
    """

    source: IAddress | None
    destination: IAddress | None
    size: int


def parse_header(data: bytes | bytearray) -> Header | None:
    """Return the PROXY header at the beginning of *data*, ``None`` if it is incomplete.

    :raises ValueError: if *data* does not begin with a header.
    """
    if data.startswith(V2_PREFIX[: len(data)]):
        return _parse_v2(data)
    if data.startswith(V1_PREFIX[: len(data)]):
        return _parse_v1(data)
    raise ValueError("no PROXY header")


def _parse_v1(data: bytes | bytearray) -> Header | None:
    line, end, _ = bytes(data[:MAX_V1]).partition(b"\r\n")
    if not end:
        if len(data) >= MAX_V1:
            raise ValueError("the PROXY header is too long")
        return None
    size = len(line) + len(end)
    match line.split(b" "):
        case [b"PROXY", b"UNKNOWN", *_]:
            return Header(None, None, size)
        case [b"PROXY", b"TCP4" | b"TCP6" as family, source, destination, from_port, to_port]:
            make = _ipv4 if family == b"TCP4" else _ipv6
            return Header(
                make(source.decode("ascii"), _port(from_port)),
                make(destination.decode("ascii"), _port(to_port)),
                size,
            )
    raise ValueError("the PROXY header is malformed")


def _port(text: bytes) -> int:
    if not (text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError("the PROXY header has an impossible port")
    return int(text)


def _ipv4(host: str | bytes, port: int) -> IPv4Address:
    return IPv4Address("TCP", str(IPv4(host)), port)


def _ipv6(host: str | bytes, port: int) -> IPv6Address:
    return IPv6Address("TCP", str(IPv6(host)), port)


def _parse_v2(data: bytes | bytearray) -> Header | None:
    if len(data) < _V2_HEAD.size:
        return None
    _, command, family, length = _V2_HEAD.unpack_from(data)
    if command not in (0x20, 0x21):
        raise ValueError("the PROXY header has an unknown version or command")
    size = _V2_HEAD.size + length
    if len(data) < size:
        return None
    addresses = bytes(data[_V2_HEAD.size : size])
    if command == 0x20 or family & 0x0F != 1:  # LOCAL, or not a stream
        return Header(None, None, size)
    return Header(*_addresses(family, addresses), size)


def _addresses(family: int, data: bytes) -> tuple[IAddress | None, IAddress | None]:
    try:
        if family == 0x11:
            source, destination, *ports = struct.unpack_from("!4s4s2H", data)
            return _ipv4(source, ports[0]), _ipv4(destination, ports[1])
        if family == 0x21:
            source, destination, *ports = struct.unpack_from("!16s16s2H", data)
            return _ipv6(source, ports[0]), _ipv6(destination, ports[1])
        if family == 0x31:
            source, destination = struct.unpack_from("!108s108s", data)
            return UNIXAddress(source.rstrip(b"\0")), UNIXAddress(destination.rstrip(b"\0"))
    except struct.error:
        raise ValueError("the PROXY header is too short for its addresses") from None
    return None, None


def render_header(source: IAddress | None, destination: IAddress | None) -> bytes:
    """Return a header of version 2 that tells a client's address, if that is an IP address.

    :param destination: the address that the client has connected to; if it is of the other family,
        the header tells none.
    """
    addresses = b""
    family = 0
    for kind, code, parse in ((IPv4Address, 0x11, IPv4), (IPv6Address, 0x21, IPv6)):
        if isinstance(source, kind):
            packed = parse(source.host).packed
            to, port = bytes(len(packed)), 0
            if isinstance(destination, kind):
                to, port = parse(destination.host).packed, destination.port
            family = code
            addresses = packed + to + struct.pack("!2H", source.port, port)
    command = 0x21 if family else 0x20
    return _V2_HEAD.pack(V2_PREFIX, command, family, len(addresses)) + addresses


class ProxiedProtocol(ProtocolWrapper):
    """Reads a PROXY header, then passes data on; has the addresses of the header.

    :ivar begin: what it has read: the header, or a part of it.
    """

    is_proxied = True
    """Tells the connection of a peer that its client is behind a proxy."""

    factory: Any
    transport: Any
    _header: Header | None = None

    def __init__(self, factory: Any, protocol: Any) -> None:
        super().__init__(factory, protocol)
        self._unread = bytearray()
        self.begin = b""

    def dataReceived(self, data: bytes) -> None:
        """Wait for the whole header, then pass on what follows it."""
        if self._header is not None:
            self.wrappedProtocol.dataReceived(data)
            return
        self._unread += data
        address = self.transport.getPeer()
        try:
            if address not in self.factory.proxies:
                raise ValueError("it is no trusted proxy (--trust-proxy)")
            self._header = parse_header(self._unread)
        except ValueError as error:
            self.factory.refused(address, str(error))
            self.transport.abortConnection()
            return
        self.begin = bytes(self._unread)
        if self._header is not None:
            self.begin = self.begin[: self._header.size]
            rest = bytes(self._unread[self._header.size :])
            self._unread.clear()
            if rest:
                self.wrappedProtocol.dataReceived(rest)

    def getPeer(self) -> IAddress:
        """Return the client's address, as the proxy tells it."""
        if self._header is not None and self._header.source is not None:
            return self._header.source
        peer: IAddress = self.transport.getPeer()
        return peer

    def getHost(self) -> IAddress:
        """Return the address that the client has connected to, as the proxy tells it."""
        if self._header is not None and self._header.destination is not None:
            return self._header.destination
        host: IAddress = self.transport.getHost()
        return host


class _ProxiedFactory(WrappingFactory):
    protocol = ProxiedProtocol

    def __init__(
        self,
        factory: IProtocolFactory,
        proxies: Container[IAddress],
        refused: Callable[[IAddress, str], object],
    ) -> None:
        super().__init__(factory)
        self.proxies = proxies
        self.refused = refused


@implementer(IStreamServerEndpoint)
class ProxiedEndpoint:
    """Listens for connections of trusted proxies, which begin with a PROXY header.

    :param proxies: the trusted proxies. All other connections are refused.
    :param refused: called with the address and the reason when a connection is refused.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        proxies: Container[IAddress],
        refused: Callable[[IAddress, str], object],
    ) -> None:
        self._endpoint = endpoint
        self._proxies = proxies
        self._refused = refused

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen as the inner endpoint does."""
        listening: Deferred[IListeningPort] = self._endpoint.listen(
            _ProxiedFactory(factory, self._proxies, self._refused)
        )
        return listening
