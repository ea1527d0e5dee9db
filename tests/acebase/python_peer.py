"""One Python process of an AceBase cluster, controlled by its standard input.

Its options, input and output are those of ``peer.js``. It can do less, having no
database, and a few things else:

* ``subscribe``, ``unsubscribe``, ``notify``, ``cut``, ``return``, ``close``;
* ``follow``: tells the changes under a path, and of a gap;
* ``received``: the number of events that have come;
* ``request``: the answer is the ``repr()`` of the result;
* ``notify_typed``: notifies everybody of :data:`TYPED`.

It answers requests of three types: ``double``, ``fail`` and ``typed``. Of a notification
that is not of ``notify`` it tells the ``repr()``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from typing import Any

from twisted.internet import reactor, stdio
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from acebase_ipc.client.changes import Changes
from acebase_ipc.client.errors import HistoryGap
from acebase_ipc.peer.peer import AceBasePeer
from acebase_ipc.protocol.envelopes import Event
from acebase_ipc.protocol.values import PathReference, RegExp

LONG_TEXT = 1000  # characters; above it a test is told length and digest only

TYPED = {
    "when": datetime(2022, 4, 22, 7, 49, 23, 456000, tzinfo=UTC),
    "bytes": b"\0\0\0\0hi",
    "ref": PathReference("users/x"),
    "re": RegExp("a(b)", "gi"),
    "big": 12345678901234567890,
    "list": [1, [b""]],
}


@implementer(IStreamClientEndpoint)
class Severable:
    """An endpoint whose connections can be cut, and which makes no more before it is told to."""

    def __init__(self, endpoint: IStreamClientEndpoint, away: bool) -> None:
        self._endpoint = endpoint
        self._transports: list[Any] = []
        self._staying_away: Deferred[None] | None = Deferred() if away else None

    async def _connect(self, factory: Any) -> Any:
        if self._staying_away is not None:
            await self._staying_away
        protocol: Any = await self._endpoint.connect(factory)
        self._transports.append(protocol.transport)
        return protocol

    def connect(self, factory: Any) -> Deferred[Any]:
        return ensureDeferred(self._connect(factory))

    def cut(self) -> None:
        self._staying_away = Deferred()
        while self._transports:
            self._transports.pop().abortConnection()

    def come_back(self) -> None:
        staying_away, self._staying_away = self._staying_away, None
        if staying_away is not None:
            staying_away.callback(None)


class Program(LineOnlyReceiver):
    """Carries out the commands of its standard input."""

    transport: Any

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, options: dict[str, Any]) -> None:
        ipc = options["ipc"]
        endpoint = HostnameEndpoint(reactor, ipc["host"], ipc["port"])
        self._endpoint = Severable(endpoint, options["away"])
        self._peer = AceBasePeer(
            f"ws://{ipc['host']}:{ipc['port']}",
            f"{options['name']}_data",
            endpoint=self._endpoint,
            retry_policy=lambda failures: 0.05,
        )
        self._peer.on_notification(self._notified)
        self._peer.on_request("double", lambda data, sender: {"double": 2 * data["number"]})
        self._peer.on_request("fail", self._fail)
        self._peer.on_request("typed", self._typed)
        self._peer.client.on_message(self._count)
        self._received = 0
        self._welcomes = 0
        self._waiting: list[Deferred[None]] = []
        self._peer.client.on_connected(self._welcomed)

    def connectionMade(self) -> None:
        self._say({"opened": {"id": self._peer.id}})
        self._peer.startService()

    def connectionLost(self, reason: Any = None) -> None:
        # A test that is gone takes its processes along.
        reactor.stop()

    def lineReceived(self, line: bytes) -> None:
        ensureDeferred(self._carry_out(json.loads(line)))

    async def _carry_out(self, parameters: dict[str, Any]) -> None:
        number, name = parameters.pop("call"), parameters.pop("do")
        try:
            self._say({"answer": number, "result": await getattr(self, f"do_{name}")(**parameters)})
        except Exception as error:
            self._say({"answer": number, "error": f"{type(error).__name__}: {error}"})

    # Output

    def _say(self, line: dict[str, Any]) -> None:
        self.transport.write(json.dumps(line).encode() + b"\n")

    def _tell(self, subscription: str, path: str, value: Any, origin: str) -> None:
        if isinstance(value, str) and len(value) > LONG_TEXT:
            digest = hashlib.sha256(value.encode()).hexdigest()
            value = {"length": len(value.encode("utf-16-le")) // 2, "sha256": digest}
        event = {"subscription": subscription, "path": path, "value": value, "origin": origin}
        self._say({"event": event})

    def _welcomed(self) -> None:
        self._welcomes += 1
        self._say({"welcomed": self._welcomes, "id": self._peer.id})
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _count(self, text: str) -> None:
        self._received += text.startswith('{"type":"event"')

    def _notified(self, data: Any, sender: str) -> None:
        match data:
            case {"type": "test", "value": value}:
                self._tell("notification", "", value, sender)
            case _:
                self._tell("other notification", "", repr(data), sender)

    def _fail(self, data: Any, sender: str) -> None:
        raise ValueError("nothing of the kind")

    async def _typed(self, data: Any, sender: str) -> Any:
        await succeed(None)
        self._tell("typed request", "", repr(data["value"]), sender)
        return TYPED

    # Commands

    async def do_subscribe(self, path: str, event: str) -> None:
        def tell(each: Event) -> None:
            self._tell(f"{event} {path}", each.path, each.value, each.sender)

        self._peer.subscribe(path, event, tell)

    async def do_unsubscribe(self, path: str) -> None:
        self._peer.unsubscribe(path)

    async def do_follow(self, path: str, since: str | None = None) -> None:
        changes = self._peer.changes(path, since)
        ensureDeferred(self._follow(path, changes))
        await changes.when_ready()

    async def _follow(self, path: str, changes: Changes) -> None:
        try:
            async for each in changes:
                value = [[*each.target, each.value] for each in each.mutations]
                self._tell(f"changes {path}", each.cursor, value, each.sender)
        except HistoryGap:
            self._tell(f"gap {path}", "", None, "")

    async def do_received(self) -> int:
        return self._received

    async def do_notify(self, value: Any) -> None:
        await self._peer.notify({"type": "test", "value": value})

    async def do_notify_typed(self) -> None:
        await self._peer.notify({"type": "typed", "value": TYPED})

    async def do_request(self, value: Any, **options: Any) -> str:
        return repr(await self._peer.request(value, **options))

    async def do_cut(self) -> None:
        self._endpoint.cut()

    async def do_return(self) -> None:
        returned: Deferred[None] = Deferred()
        self._waiting.append(returned)
        self._endpoint.come_back()
        await returned

    async def do_close(self) -> None:
        await self._peer.stopService()


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    stdio.StandardIO(Program(json.loads(sys.argv[1])))
    reactor.run()
