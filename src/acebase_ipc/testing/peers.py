"""Peers for tests: documented ones, and such as the npm package acebase makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from acebase_ipc.testing.connection import MemoryConnection
from acebase_ipc.testing.frames import (
    Frame,
    FrameReader,
    Opcode,
    client_frame,
    close_payload,
)
from acebase_ipc.testing.http import Response

_ANSWERS = {Opcode.CLOSE: Opcode.CLOSE, Opcode.PING: Opcode.PONG}

_OWN_ID = re.compile(r"\[master\]|[0-9a-z]{24}")
"""The ids that the npm package gives its processes."""

_SAFE = "/[]%"
"""What is sent as it is: a path before a database, and what is percent-encoded already."""

Request = Callable[[str, str, bytes], Response]
"""Makes a request with a method, a target and a body over a connection of its own."""


class MemoryPeer:
    """A documented peer of a relay in memory; :meth:`MemoryRelay.join` makes one.

    :ivar id: its id.
    :ivar database: the wire name of its database.
    :ivar connection: the connection of its WebSocket.
    :ivar answers: whether it answers pings and close frames, as clients do.
    """

    def __init__(
        self,
        client_id: str,
        connection: MemoryConnection,
        *,
        database: str = "",
        token: str = "",
        request: Request | None = None,
    ) -> None:
        """Take over a *connection* on which an upgrade was asked for.

        :raises HandshakeRefused: if it was not granted.
        """
        self.id = client_id
        self.database = database
        self.connection = connection
        self.answers = True
        self._token = token
        self._request = request
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._close: Frame | None = None
        data = connection.take()
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise HandshakeRefused(data)
        connection.on_data = self._receive
        self._receive(rest)
        connection.settle()

    @staticmethod
    def target(client_id: str, database: str, token: str, query: str = "") -> str:
        """The target of the handshake, with the parameters in the documented order.

        :param query: more of it, like ``&dialect=acebase``.
        """
        quoted = quote(client_id, safe=_SAFE)
        return f"/{quote(database, safe=_SAFE)}/connect?id={quoted}&v=1.0.0&t={quote(token)}{query}"

    # Sending

    def say(self, *messages: str) -> None:
        """Send text messages, each in one frame, all at once."""
        self.connection.send(b"".join(map(client_frame, messages)))

    def send(self, payload: bytes, opcode: int, *, final: bool = True) -> None:
        """Send one frame of any kind."""
        self.connection.send(client_frame(payload, opcode, final=final))

    def post(self, message: str | bytes) -> Response:
        """POST a message to ``/send``, as clients do with one above maxPayload."""
        body = message.encode() if isinstance(message, str) else message
        return self._ask("POST", "send", "", body)

    def download(self, announcement: str) -> Response:
        """GET from ``/receive`` the large message that ``get:<id>`` has announced."""
        return self._ask("GET", "receive", f"&msg={announcement.removeprefix('get:')}", b"")

    def _ask(self, method: str, endpoint: str, query: str, body: bytes) -> Response:
        if self._request is None:
            raise TypeError("this peer has no way to make requests")
        sender = f"id={quote(self.id, safe=_SAFE)}&t={quote(self._token)}"
        database = quote(self.database, safe=_SAFE)
        return self._request(method, f"/{database}/{endpoint}?{sender}{query}", body)

    # Receiving

    def welcome(self) -> int:
        """Take the welcome, the first message of a relay; returns the maxPayload in it.

        :raises HandshakeRefused: if something else has come, or nothing.
        """
        first, self._frames = self._frames[:1], self._frames[1:]
        for frame in first:
            if frame.opcode == Opcode.TEXT and frame.payload.startswith(b"welcome:"):
                max_payload: int = json.loads(frame.payload[8:])["maxPayload"]
                return max_payload
        raise HandshakeRefused(b"".join(each.payload for each in first))

    def received(self) -> list[str]:
        """The text messages that have come since the last time."""
        return [each.text for each in self.frames() if each.opcode == Opcode.TEXT]

    def frames(self) -> list[Frame]:
        """All frames that have come since the last time."""
        frames, self._frames = self._frames, []
        return frames

    def _receive(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self._frames.append(frame)
            if frame.opcode == Opcode.CLOSE:
                self._close = frame
            answer = _ANSWERS.get(Opcode(frame.opcode))
            if self.answers and answer is not None:
                self.connection.send(client_frame(frame.payload, answer), settle=False)

    def stop_reading(self, room: int = 0) -> None:
        """Read nothing after another *room* bytes."""
        self.connection.stop_reading(room)

    def resume_reading(self, room: int | None = None) -> None:
        """Read another *room* bytes; default: all that comes."""
        self.connection.resume_reading(room)

    # The end

    def leave(self, code: int = 1000) -> None:
        """Close the WebSocket in the regular way."""
        self.send(close_payload(code), Opcode.CLOSE)

    def lose(self) -> None:
        """End the connection as the system does for a killed process."""
        self.connection.reset()

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that the relay has sent, if it has."""
        return None if self._close is None else self._close.close_code

    @property
    def close_reason(self) -> str:
        """The reason that the relay has given for closing."""
        return "" if self._close is None else self._close.close_reason


class AceBaseMemoryPeer(MemoryPeer):
    """A peer such as the npm package acebase makes; :meth:`MemoryRelay.join_acebase`."""

    @staticmethod
    def target(client_id: str, database: str, token: str, query: str = "") -> str:
        """The target of the handshake, with the parameters in the npm package's order."""
        if not _OWN_ID.fullmatch(client_id):
            query += "&dialect=acebase"
        query = f"v=1.29.13&id={quote(client_id, safe=_SAFE)}&t={quote(token)}{query}"
        return f"/{quote(database, safe=_SAFE)}/connect?{query}"

    def say_envelope(self, kind: str, to: str | None = None, **fields: Any) -> None:
        """Send an envelope of this type from this peer, to all or to one.

        >>> from acebase_ipc.testing import MemoryRelay
        >>> with MemoryRelay() as relay:
        ...     worker, master = relay.join_acebase("worker"), relay.join_acebase("[master]")
        ...     worker.say_envelope("lock-request", to="[master]", id="r1", data={})
        ...     print(master.received()[-1])
        {"type":"lock-request","from":"worker","to":"[master]","id":"r1","data":{}}
        """
        addressed = {} if to is None else {"to": to}
        envelope = {"type": kind, "from": self.id, **addressed, **fields}
        text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))
        self.say(text if to is None else f"to:{to};{text}")

    def envelopes(self) -> list[dict[str, Any]]:
        """The envelopes that have come since the last time; other messages are left out."""
        return [json.loads(each) for each in self.received() if each.startswith("{")]


class HandshakeRefused(Exception):
    """The relay did not open a WebSocket.

    :ivar answer: what it sent instead; nothing if it did not answer.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.decode("utf-8", "replace") or "no answer")
        self.answer = answer
