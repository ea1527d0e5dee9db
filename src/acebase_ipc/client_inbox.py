"""What has come, given on in order, although large messages have to be fetched first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client_errors import RequestFailed
from acebase_ipc.incoming import Announced, Body, Joined, Left

log = Logger()

Item = Joined | Left | Body
"""What is given on."""


class Inbox:
    """A queue that stands still while a large message is downloaded.

    :param download: fetches an announced message.
    :param deliver: is given what has come, in order.
    """

    def __init__(
        self, download: Callable[[str], Deferred[str]], deliver: Callable[[Item], None]
    ) -> None:
        self._download = download
        self._deliver = deliver
        self._waiting: deque[tuple[Item | Announced, int]] = deque()
        self._downloading: Deferred[str] | None = None
        self.size = 0

    def put(self, item: Item | Announced, size: int) -> None:
        """Give on *item*, of *size* bytes, when all before it has been given on."""
        self._waiting.append((item, size))
        self.size += size
        self._go_on()

    def clear(self) -> None:
        """Forget what waits, and the download."""
        self._waiting.clear()
        self.size = 0
        if self._downloading is not None:
            self._downloading.cancel()

    def _go_on(self) -> None:
        while self._waiting and self._downloading is None:
            item, size = self._waiting.popleft()
            self.size -= size
            if isinstance(item, Announced):
                self._downloading = self._download(item.message_id)
                self._downloading.addCallbacks(self._downloaded, self._lost)
            else:
                self._deliver(item)

    def _downloaded(self, text: str) -> None:
        self._downloading = None
        self._deliver(Body(text))
        self._go_on()

    def _lost(self, failure: Failure) -> None:
        self._downloading = None
        if failure.check(RequestFailed):
            log.warn("a large message is lost: {reason}", reason=str(failure.value))
        self._go_on()
