"""What has come, given on in order, although large messages have to be fetched first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.errors import RequestFailed
from acebase_ipc.client.outbox import MAX_MESSAGES
from acebase_ipc.protocol.messages import Body, ConnectNotice, DisconnectNotice, DownloadNotice

log = Logger()

Item = ConnectNotice | DisconnectNotice | Body
"""What is given on."""


class Inbox:
    """A queue that stands still while a large message is downloaded.

    :param download: fetches an announced message.
    :param deliver: is given what has come, in order.
    :param max_bytes: how much may wait before it is full.
    """

    def __init__(
        self,
        download: Callable[[str], Deferred[str]],
        deliver: Callable[[Item], None],
        max_bytes: int,
    ) -> None:
        self._download = download
        self._deliver = deliver
        self._waiting: deque[tuple[Item | DownloadNotice, int]] = deque()
        self._downloading: Deferred[str] | None = None
        self._max_bytes = max_bytes
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether no more should be put into it."""
        return self._size > self._max_bytes or len(self._waiting) >= MAX_MESSAGES

    def put(self, item: Item | DownloadNotice, size: int) -> None:
        """Give on *item*, of *size* bytes, when all before it has been given on."""
        self._waiting.append((item, size))
        self._size += size
        self._go_on()

    def clear(self) -> None:
        """Forget what waits, and the download."""
        self._waiting.clear()
        self._size = 0
        downloading, self._downloading = self._downloading, None
        if downloading is not None:
            downloading.cancel()

    def forget_peers(self) -> None:
        """Forget who comes and goes: that was told on a connection which has ended."""
        kept = [
            each
            for each in self._waiting
            if not isinstance(each[0], ConnectNotice | DisconnectNotice)
        ]
        self._waiting = deque(kept)
        self._size = sum(size for _, size in kept)

    def _go_on(self) -> None:
        while self._waiting and self._downloading is None:
            item, size = self._waiting.popleft()
            self._size -= size
            if isinstance(item, DownloadNotice):
                downloading = self._downloading = self._download(item.message_id)
                downloading.addBoth(self._downloaded)
            else:
                self._deliver(item)

    def _downloaded(self, result: str | Failure) -> None:
        self._downloading = None
        if not isinstance(result, Failure):
            self._deliver(Body(result))
        elif result.check(RequestFailed):
            log.warn("a large message is lost: {reason}", reason=str(result.value))
        self._go_on()
