"""Passes on what requests to a relay come to that are complete only after its hand-over.

Those are messages that were posted, and downloads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from acebase_ipc.relay.store import Key
from acebase_ipc.server.handover.predecessor import Reader
from acebase_ipc.server.handover.wire import HandOverError, Kind, Wire

TIMEOUT: Final = 5.0
"""Seconds for a message of any size to be passed on."""

Answer = tuple[int, str]
"""The status and the text of the answer to a request."""

log = Logger()


class _End:
    """One end of the socket over which messages are passed on."""

    def __init__(self, wire: Wire, reactor: Any) -> None:
        self._wire = wire
        self._reactor = reactor
        self._reader = Reader(wire.fileno, self._read)
        reactor.addReader(self._reader)

    def _read(self) -> None:
        try:
            self._wire.limit(TIMEOUT)
            self._receive()
        except HandOverError:
            self.close()
        except Exception:
            log.failure("passing on a message failed")
            self.close()

    def _receive(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Pass on nothing more."""
        self._reactor.removeReader(self._reader)
        self._wire.close()


class PostsToSuccessor(_End):
    """Passes on to the successor what is posted here."""

    def __init__(self, wire: Wire, reactor: Any) -> None:
        super().__init__(wire, reactor)
        self._answers: list[Deferred[Answer]] = []

    def post(self, database: str, client_id: str, body: bytes) -> Deferred[Answer]:
        """Pass on a message of a peer; fires with what the client is answered."""
        answer = Deferred[Answer]()
        self._answers.append(answer)
        try:
            self._wire.limit(TIMEOUT)
            self._wire.send(Kind.POSTED, (database, client_id, body))
        except HandOverError:
            self.close()
        return answer

    def fetched(self, key: Key) -> None:
        """Tell that a download is complete: of a database, a recipient, and a message's id."""
        try:
            self._wire.limit(TIMEOUT)
            self._wire.send(Kind.FETCHED, key)
        except HandOverError:
            self.close()

    def _receive(self) -> None:
        status, text = self._wire.receive(Kind.ANSWERED).content
        self._answers.pop(0).callback((status, text))

    def close(self) -> None:
        """Pass on nothing more; what is not answered fails."""
        super().close()
        answers, self._answers = self._answers, []
        for each in answers:
            each.errback(HandOverError("the successor has ended"))


class PostsOfPredecessor(_End):
    """Receives what was posted to the predecessor.

    :param receive: relays a message of a peer; returns what the client is answered.
    :param fetched: notes that a download is complete.
    """

    def __init__(
        self,
        wire: Wire,
        reactor: Any,
        receive: Callable[[str, str, bytes], Answer],
        fetched: Callable[[Key], object],
    ) -> None:
        super().__init__(wire, reactor)
        self._relay = receive
        self._fetched = fetched

    def _receive(self) -> None:
        received = self._wire.receive(Kind.POSTED, Kind.FETCHED)
        if received.kind is Kind.FETCHED:
            self._fetched(tuple(received.content))
        else:
            self._wire.send(Kind.ANSWERED, self._relay(*received.content))
