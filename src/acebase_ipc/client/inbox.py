"""What has arrived, delivered in order although large messages have to be downloaded first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.errors import RequestFailed
from acebase_ipc.client.outbox import MAX_MESSAGES
from acebase_ipc.client.session import Gap, GapReason
from acebase_ipc.protocol.messages import Body, ConnectNotice, DisconnectNotice, DownloadNotice

log = Logger()

Item = ConnectNotice | DisconnectNotice | Body | Gap
"""What is delivered."""


class Inbox:
    """A queue that stands still while a large message is downloaded.

    :param download: fetches an announced message.
    :param deliver: is called with each item, in order.
    :param changed: is called when :attr:`is_full` may have changed.
    :param max_bytes: bytes that may wait before it is full.
    """

    def __init__(
        self,
        callouts: Callouts,
        download: Callable[[str], Deferred[str]],
        deliver: Callable[[Item], None],
        changed: Callable[[], None],
        max_bytes: int,
    ) -> None:
        self._callouts = callouts
        self._download = download
        self._deliver = deliver
        self._changed = changed
        self._waiting: deque[tuple[Item | DownloadNotice, int]] = deque()
        self._downloading: Deferred[str] | None = None
        self._stepping = False
        self._max_bytes = max_bytes
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether no more should be put into it."""
        return self._size > self._max_bytes or len(self._waiting) >= MAX_MESSAGES

    def put(self, item: Item | DownloadNotice, size: int) -> None:
        """Deliver *item*, of *size* bytes, when all before it has been delivered."""
        idle = not (self._waiting or self._stepping or self._downloading)
        if idle and not isinstance(item, DownloadNotice):
            self._deliver(item)
        else:
            self._waiting.append((item, size))
            self._size += size
            self._pump()

    def clear(self) -> None:
        """Discard what waits, and cancel the download."""
        self._waiting.clear()
        self._size = 0
        downloading, self._downloading = self._downloading, None
        if downloading is not None:
            downloading.cancel()
        self._changed()

    def forget_peers(self) -> None:
        """Discard the notices about peers: what was known of these is out of date."""
        kept = [
            each
            for each in self._waiting
            if not isinstance(each[0], ConnectNotice | DisconnectNotice)
        ]
        self._waiting = deque(kept)
        self._size = sum(size for _, size in kept)
        self._changed()

    def _pump(self) -> None:
        """Deliver what can be: one item, the calls that it causes, then the next."""
        if not self._stepping:
            self._stepping = True
            self._callouts.call(self._step)

    def _step(self) -> None:
        self._stepping = False
        if self._waiting and self._downloading is None:
            item, size = self._waiting.popleft()
            self._size -= size
            if isinstance(item, DownloadNotice):
                self._begin_download(item)
            else:
                self._deliver(item)
            self._pump()
        else:
            self._changed()

    def _begin_download(self, notice: DownloadNotice) -> None:
        downloading = self._downloading = self._download(notice.message_id)
        downloading.addBoth(self._downloaded, downloading)

    def _downloaded(self, result: str | Failure, downloading: Deferred[str]) -> None:
        if self._downloading is not downloading:
            return  # it was discarded
        self._downloading = None
        with self._callouts:
            if not isinstance(result, Failure):
                self._deliver(Body(result))
            elif result.check(RequestFailed):
                log.warn("a large message is lost: {reason}", reason=str(result.value))
                self._deliver(Gap(GapReason.DOWNLOAD_FAILED))
            self._pump()
