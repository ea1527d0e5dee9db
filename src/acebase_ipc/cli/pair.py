"""Two peers of one database: what one sends, the other sends back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from acebase_ipc.client.errors import ClientError

if TYPE_CHECKING:
    from acebase_ipc.client.service import IPCClient

TIMEOUT: Final = 10.0
"""Seconds for one round trip."""


class NotReturned(ClientError):
    """A message did not come back in time."""

    def __init__(self) -> None:
        super().__init__(f"a message did not return within {TIMEOUT:g} s")


class Pair:
    """Two connected peers.

    :ivar near: the one that sends first.
    """

    def __init__(self, near: IPCClient, far: IPCClient, reactor: Any) -> None:
        self.near = near
        self._far = far
        self._reactor = reactor
        far.on_message(self._send_back)

    def _send_back(self, body: str) -> None:
        # If it is lost, the round trip times out.
        self._far.send(body, to=self.near.id).addErrback(lambda _: None)

    async def round_trip(self, body: str) -> float:
        """Return the seconds until *body* has come back.

        :raises ClientError: if it does not.
        """
        from twisted.internet.defer import Deferred, TimeoutError

        returned: Deferred[None] = Deferred()

        def arrived(text: str) -> None:
            if text == body and not returned.called:
                returned.callback(None)

        forget = self.near.on_message(arrived)
        began = time.perf_counter()
        try:
            await self.near.send(body, to=self._far.id)
            await returned.addTimeout(TIMEOUT, self._reactor)
        except TimeoutError:
            raise NotReturned from None
        finally:
            forget()
        return time.perf_counter() - began


@asynccontextmanager
async def connected_pair(
    reactor: Any, url: str, database: str, token: str | None, ca: str | None
) -> AsyncIterator[Pair]:
    """Give two peers; their connections end with the block.

    :param ca: a PEM file with the certificates to trust; ``None`` for those of the system.
    :raises ClientError: if the relay cannot be reached, or refuses them.
    :raises ConfigError: if *url* or *token* cannot be used.
    """
    from acebase_ipc.client.service import IPCClient

    near, far = (
        IPCClient(url, database, token=token, trust_root=ca, reactor=reactor) for _ in range(2)
    )
    try:
        for each in (near, far):
            each.startService()
        for each in (near, far):
            await each.when_connected(fail_after_failures=1)
        yield Pair(near, far, reactor)
    finally:
        for each in (near, far):
            with suppress(ClientError):
                await each.stopService()
