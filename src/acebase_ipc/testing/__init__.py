"""Test programs that embed or use a relay.

:class:`MemoryRelay` is a relay whose network and time are in memory: for fast tests that
decide when things happen. :func:`running_relay` runs a real one, in a process of its own,
on a free port of loopback. ``acebase_ipc.testing.pytest`` is a plugin with a fixture for
the second.
"""

from acebase_ipc.testing.connection import MemoryConnection
from acebase_ipc.testing.frames import (
    Frame,
    FrameError,
    FrameReader,
    LengthForm,
    Opcode,
    client_frame,
    close_frame,
    close_payload,
    ping_frame,
    server_frames,
)
from acebase_ipc.testing.http import (
    Response,
    chunk,
    http_head,
    http_request,
    parse_responses,
    upgrade_request,
)
from acebase_ipc.testing.peers import AceBaseMemoryPeer, HandshakeRefused, MemoryPeer
from acebase_ipc.testing.reactor import MemoryPort, MemoryReactor
from acebase_ipc.testing.relay import DATABASE, START, MemoryRelay
from acebase_ipc.testing.running import RelayNotStarted, running_relay

__all__ = [
    "DATABASE",
    "START",
    "AceBaseMemoryPeer",
    "Frame",
    "FrameError",
    "FrameReader",
    "HandshakeRefused",
    "LengthForm",
    "MemoryConnection",
    "MemoryPeer",
    "MemoryPort",
    "MemoryReactor",
    "MemoryRelay",
    "Opcode",
    "RelayNotStarted",
    "Response",
    "chunk",
    "client_frame",
    "close_frame",
    "close_payload",
    "http_head",
    "http_request",
    "parse_responses",
    "ping_frame",
    "running_relay",
    "server_frames",
    "upgrade_request",
]
