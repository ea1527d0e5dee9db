"""Clusters for the status page: masters, workers and plain peers, on threads of their own.

The connections are those of the soak. What the peers of AceBase say and answer is what the
npm package says: see :mod:`tests.relay.locks`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from tests.relay.core import MASTER
from tests.relay.locks import grant, lock, new_id, released, unlock
from tests.soak.link import Link, Port

T = TypeVar("T")

DEADLINE = 240.0
"""Seconds. 2,000 peers take about ten to join; a loaded machine may take many times as long."""

AT_ONCE = 50
"""Peers that join at the same time."""


def read(text: str) -> dict[str, Any]:
    """Return an envelope of AceBase; empty for what is none.

    The first ones come as to other peers, after ``msg:``, until the relay has seen an envelope.
    """
    text = text.removeprefix("msg:")
    found: dict[str, Any] = json.loads(text) if text.startswith("{") else {}
    return found


class Master:
    """Grants locks in the order in which they are requested: one transaction at a time."""

    def __init__(self) -> None:
        self._held: dict[int, str] = {}
        self._last = 0
        self._queue: deque[str] = deque()

    def take(self, link: Link, text: str) -> None:
        """Answer a request."""
        request = text.removeprefix("msg:")
        match read(text):
            case {"type": "lock-request"}:
                self._queue.append(request)
            case {"type": "unlock-request", "data": {"id": lock_id}}:
                self._held.pop(lock_id, None)
                link.send(released(request))
        while self._queue and self._may_have(self._queue[0]):
            request = self._queue.popleft()
            self._last += 1
            self._held[self._last] = json.loads(request)["data"]["tid"]
            link.send(grant(request, self._last))

    def _may_have(self, request: str) -> bool:
        return set(self._held.values()) <= {json.loads(request)["data"]["tid"]}


class Worker:
    """A worker of AceBase.

    :ivar lock_id: the lock that it holds, or ``None``.
    """

    def __init__(self, client_id: str) -> None:
        self.id = client_id
        self.link: Link
        self.lock_id: int | None = None

    def take(self, _: Link, text: str) -> None:
        """Note a lock that was granted."""
        match read(text):
            case {"type": "lock-result", "data": {"id": lock_id}}:
                self.lock_id = lock_id

    def ask(self, path: str, comment: str, tid: str | None = None, write: bool = True) -> None:
        """Request a lock."""
        text = lock(self.id, new_id(), tid or new_id(), write, path)
        self.link.send(text.replace('"transactNode"', json.dumps(comment, ensure_ascii=False)))

    def release(self) -> None:
        """Release the lock that it holds."""
        assert self.lock_id is not None
        self.link.send(unlock(self.id, new_id(), self.lock_id))
        self.lock_id = None


class Cluster:
    """All peers of a relay, until the end of the block."""

    def __init__(self, port: int) -> None:
        self._port = Port(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.links: list[Link] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(DEADLINE)
        self._loop.close()

    def _end(self) -> None:
        for each in asyncio.all_tasks(self._loop):
            each.cancel()
        for link in self.links:
            link.cut()
        self._loop.call_soon(self._loop.stop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the thread of the peers, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run *coroutine* in the thread of the peers until the end of the block."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def join(self, database: str, *client_ids: str) -> list[Link]:
        """Let plain peers join."""
        return self.run(self._join_all([(database, each) for each in client_ids]))

    def crowd(self, peers: Sequence[tuple[str, str]]) -> None:
        """Let many peers join, each given by its database and id; they read nothing."""

        async def join() -> None:
            for link in await self._join_all(peers, reads=False):
                assert link.alive

        self.run(join())

    async def _join_all(self, peers: Sequence[tuple[str, str]], reads: bool = True) -> list[Link]:
        links = []
        for i in range(0, len(peers), AT_ONCE):
            joining = (self.connect(*each, reads=reads) for each in peers[i : i + AT_ONCE])
            links += await asyncio.gather(*joining)
        return links

    def work(self, database: str, *worker_ids: str) -> list[Worker]:
        """Let a master and workers join a database of AceBase."""
        workers = [Worker(each) for each in worker_ids]

        async def join() -> None:
            await self.connect(database, MASTER, Master())
            for each in workers:
                each.link = await self.connect(database, each.id, each)

        self.run(join())
        return workers

    def tell(self, link: Link, *messages: str) -> None:
        """Send messages."""
        self._loop.call_soon_threadsafe(link.send, *messages)

    def call(self, function: Any, *arguments: Any) -> None:
        """Call something in the thread of the peers."""
        self._loop.call_soon_threadsafe(function, *arguments)

    async def connect(
        self,
        database: str,
        client_id: str,
        peer: Master | Worker | None = None,
        reads: bool = True,
    ) -> Link:
        """Let a peer join, and wait for the relay's welcome."""
        welcomed = asyncio.Event()

        def take(link: Link, text: str) -> None:
            if text.startswith("welcome:"):
                welcomed.set()
            elif peer is not None:
                peer.take(link, text)

        target = f"/{quote(database, safe='')}/connect?v=1.0.0&id={quote(client_id, safe='')}"
        link = await Link.open(self._port, target, take, "127.0.0.1")
        assert link.status == 101, f"{client_id!r} is refused with {link.status}"
        self.links.append(link)
        await asyncio.wait_for(welcomed.wait(), DEADLINE)
        if not reads:
            link.stop_reading()
        return link
