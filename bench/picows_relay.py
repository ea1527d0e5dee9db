"""The second baseline of the benchmark: a bare relay on picows and uvloop, as fast as Python gets.

picows parses WebSocket frames in C, and uvloop is an event loop in C. This relay does what the load
generator needs, and nothing besides: it has no limits, no sessions, no back pressure, no HTTP
endpoints and no checks of what it receives. It builds a frame once for all receivers, and writes to
each once in a turn of the event loop.

    python -m bench.picows_relay --port 0 [--tls server.pem]
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
from urllib.parse import parse_qs, urlsplit

import uvloop
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

MAX_FRAME = 1 << 20
"""Bytes of a frame: the benchmark's largest have 200 KB."""

BACKLOG = 4096


def frame(text: bytes) -> bytes:
    """Return the server's text frame with *text*."""
    size = len(text)
    if size < 126:
        return bytes((0x81, size)) + text
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


class Relay:
    """The databases, and what is to be written at the end of the turn."""

    def __init__(self, max_payload: int) -> None:
        self.databases: dict[str, dict[bytes, Peer]] = {}
        self.welcome = frame(b'welcome:{"maxPayload":%d}' % max_payload)
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[Peer] = []

    def write_soon(self, peer: Peer) -> None:
        """Write to *peer* at the end of this turn."""
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(peer)

    def _write(self) -> None:
        peers, self._unwritten = self._unwritten, []
        for peer in peers:
            peer.write()

    def open(self, request: WSUpgradeRequest) -> Peer:
        """Return the listener of a new connection."""
        url = urlsplit(request.path.decode())
        return Peer(self, url.path.split("/")[1], parse_qs(url.query)["id"][0].encode())


class Peer(WSListener):
    """One peer's connection."""

    def __init__(self, relay: Relay, database: str, client_id: bytes) -> None:
        self._relay = relay
        self._id = client_id
        self._frames: list[bytes] = []
        self._peers = relay.databases.setdefault(database, {})

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Welcome the peer, and tell the others."""
        self._transport = transport.underlying_transport
        self.send(self._relay.welcome)
        self._broadcast(b"connect:" + self._id)
        self._peers[self._id] = self

    def on_ws_frame(self, transport: WSTransport, received: WSFrame) -> None:
        """Relay a message, or close."""
        if received.msg_type == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif received.msg_type == WSMsgType.TEXT:
            self._relay_text(received.get_payload_as_bytes())

    def _relay_text(self, text: bytes) -> None:
        if text[:3] == b"to:":
            to, _, text = text[3:].partition(b";")
            peer = self._peers.get(to)
            if peer is not None:
                peer.send(frame(text))
        elif text == b"ping":
            self.send(frame(b"pong"))
        else:
            self._broadcast(text)

    def _broadcast(self, text: bytes) -> None:
        shared = frame(text)
        for peer in self._peers.values():
            if peer is not self:
                peer.send(shared)

    def send(self, shared: bytes) -> None:
        """Write a frame at the end of this turn."""
        if not self._frames:
            self._relay.write_soon(self)
        self._frames.append(shared)

    def write(self) -> None:
        """Write what was collected."""
        self._transport.write(b"".join(self._frames))
        self._frames.clear()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Tell the others."""
        if self._peers.get(self._id) is self:
            del self._peers[self._id]
            self._broadcast(b"disconnect:" + self._id)


async def serve(port: int, pem: str | None, max_payload: int) -> None:
    """Listen on loopback, print the URL, and run until killed."""
    context = None
    if pem is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
    server = await ws_create_server(
        Relay(max_payload).open,
        "127.0.0.1",
        port,
        ssl=context,
        max_frame_size=MAX_FRAME,
        backlog=BACKLOG,
    )
    host, number = server.sockets[0].getsockname()
    print(f"listening on {'ws' if pem is None else 'wss'}://{host}:{number}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Run the relay for a command line."""
    parser = argparse.ArgumentParser(description="A bare relay on picows, to compare with.")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 (default) for any")
    parser.add_argument("--tls", metavar="PEM", help="file with key and certificate")
    parser.add_argument("--max-payload", type=int, default=16384, help="as clients are told")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.tls, options.max_payload))


if __name__ == "__main__":
    main()
