"""The response to a handshake, and who receives what arrives after it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.test.requesthelper import DummyChannel, DummyRequest

from acebase_ipc.websocket.upgrade import switching_protocols, take_transport


@pytest.mark.parametrize("key", [b"dGhlIHNhbXBsZSBub25jZQ==", b"  dGhlIHNhbXBsZSBub25jZQ== "])
def test_the_response_accepts_the_key(key: bytes) -> None:
    request: Any = DummyRequest([])
    request.requestHeaders.setRawHeaders(b"Sec-WebSocket-Key", [key])
    status, *headers = switching_protocols(request).removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert status == b"HTTP/1.1 101 Switching Protocols"
    assert set(headers) == {
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # of RFC 6455, section 1.3
    }


class Channel:
    """The channel of a request, which is its transport's producer."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport


class Transport(DummyChannel.TCP):
    """A transport with a channel as its producer."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = Protocol()
        self.producer: object = self

    def unregisterProducer(self) -> None:
        self.producer = None


class Wrapper(ProtocolWrapper):
    """What TLS or a PROXY header puts between the transport and the channel."""

    def unregisterProducer(self) -> None:
        transport: Any = self.transport
        transport.unregisterProducer()


def make_request(transport: Any) -> Any:
    request: Any = DummyRequest([])
    request.channel = Channel(transport)
    return request


def test_the_protocol_receives_from_the_transport_that_the_channel_had() -> None:
    transport, protocol = Transport(), Protocol()
    request = make_request(transport)
    assert take_transport(request, protocol) is transport
    assert transport.protocol is protocol
    assert transport.producer is None
    assert request.channel.transport is None


@pytest.mark.parametrize("is_outermost", [True, False])
def test_the_protocol_receives_from_a_wrapper(is_outermost: bool) -> None:
    transport, protocol = Transport(), Protocol()
    wrapper: Any = Wrapper(WrappingFactory(None), Protocol())
    wrapper.transport = transport
    transport.protocol = wrapper
    outermost = wrapper if is_outermost else transport
    assert take_transport(make_request(outermost), protocol) is outermost
    assert wrapper.wrappedProtocol is protocol
    assert transport.protocol is wrapper
    assert transport.producer is None
