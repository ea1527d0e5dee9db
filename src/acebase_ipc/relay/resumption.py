"""Resumable sessions: what is sent to a peer is kept until it is acknowledged.

A peer that has asked for such a session has a
:class:`~acebase_ipc.relay.numbering.Numbering`, and in place of its WebSocket a
:class:`NumberedConnection`, which numbers and keeps what it is sent. When the connection ends,
what is kept goes back to the beginning of the peer's queue, so that all that waits is in one
place. What such a peer sends passes :class:`Resumption`, which relays each number once. Other peers
have nothing to do with these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hmac import compare_digest

from acebase_ipc.protocol.errors import InvalidNumber, WrongSession
from acebase_ipc.protocol.messages import PING, Message
from acebase_ipc.protocol.numbers import (
    ACK,
    ACK_AFTER,
    NUMBERED,
    SESSION,
    SKIP,
    UNNUMBERED,
    read_number,
    split_number,
)
from acebase_ipc.relay.connection import Connection, send_one_by_one
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.numbering import Numbering
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.router import Router
from acebase_ipc.relay.work import SLICE

_CONTROL = len(SKIP)


class NumberedConnection:
    """A peer's WebSocket that numbers what it is sent, and keeps it.

    It implements :class:`~acebase_ipc.relay.connection.Connection`.
    """

    __slots__ = ("_connection", "_numbering")

    def __init__(self, connection: Connection, numbering: Numbering) -> None:
        self._connection = connection
        self._numbering = numbering

    @property
    def is_full(self) -> bool:
        """Whether it accepts no more messages for now."""
        return self._connection.is_full or self._numbering.is_full

    @property
    def address(self) -> str:
        """The address of the other end, for the log."""
        return self._connection.address

    @property
    def silence(self) -> float:
        """Seconds since anything was received."""
        return self._connection.silence

    @property
    def lag(self) -> float | None:
        """Seconds that the other end's process takes to answer a ping."""
        return self._connection.lag

    @property
    def unsent(self) -> int:
        """Bytes that were sent here and that the system has not accepted yet."""
        return self._connection.unsent

    @property
    def memory(self) -> int:
        """All bytes that the WebSocket holds."""
        return self._connection.memory

    def send(self, message: Message) -> None:
        """Send *message*, with a number unless it has none."""
        if message.text[:4] in UNNUMBERED:
            self._connection.send(message)
        else:
            self._connection.send_text(self._numbering.number(message))

    def send_text(self, text: bytes) -> None:
        """Send a message with this *text*."""
        self.send(Message(text))

    def send_texts(self, texts: Sequence[bytes]) -> None:
        """Send a message with each of these *texts*."""
        for text in texts:
            self.send(Message(text))

    def send_each(
        self, message: Message, connections: Sequence[Connection], but: Connection | None
    ) -> None:
        """Send *message* to each of these *connections*."""
        send_one_by_one(message, connections, but)

    def reclaim(self) -> list[Message]:
        """Return the messages that are not acknowledged."""
        self._connection.reclaim()  # they are among these
        return self._numbering.take_back()

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Check whether the other end answers a ping within *timeout* seconds."""
        self._connection.check(timeout, answer)

    def close(self, code: int, reason: str) -> None:
        """Write what was sent, then close the WebSocket."""
        self._connection.close(code, reason)

    def suspend(self, code: int, reason: str) -> None:
        """As :meth:`close`, but go on to receive until the other end has closed, too."""
        self._connection.suspend(code, reason)

    def abort(self) -> None:
        """End the connection at once."""
        self._connection.abort()


class Resumption:
    """Receives what peers with resumable sessions send, each number once, and acknowledges it.

    :param call_later: calls a function after so many seconds; ``None``: acknowledgements that are
        not due at once wait for :meth:`acknowledge_all`.
    """

    def __init__(
        self,
        router: Router,
        delivery: Delivery,
        call_later: Callable[[float, Callable[[], object]], object] | None,
    ) -> None:
        self._router = router
        self._delivery = delivery
        self._work = delivery.work
        self._call_later = call_later
        self._untold: dict[Peer, None] = {}

    def receive(self, peer: Peer, texts: list[bytes]) -> int:
        """Relay text messages as :meth:`Router.receive` does, each of them once.

        :raises InvalidNumber: for a message without a number.
        :raises MissingMessages: for one with a higher number than the next.
        :raises MessageRefused: as :meth:`Router.receive` does; the message counts as received, as
            it would be refused again.
        """
        connection, numbering = peer.connection, peer.numbering
        assert numbering is not None
        route, received = self._router.receive, numbering.received
        end = self._work.units + SLICE
        taken = 0
        try:
            for text in texts:
                taken += 1
                if text[:2] == NUMBERED:
                    number, message = split_number(text)
                    if received.accept(number):
                        route(peer, [message])
                elif text == PING:
                    route(peer, [text])
                else:
                    self._control(peer, numbering, text)
                if peer.connection is not connection or self._work.units >= end:
                    break
        finally:
            self._note(peer, numbering)
        return taken

    def post(self, peer: Peer, message: bytes, now: float) -> None:
        """Relay a message that *peer* has posted, unless it was relayed before.

        :param now: monotonic seconds.
        :raises InvalidNumber: if it names no session, or has no number.
        :raises WrongSession: if it names another session.
        :raises MissingMessages: if it has a higher number than the next.
        :raises InvalidAddress: for a malformed ``to:``.
        """
        numbering = peer.numbering
        assert numbering is not None
        session, _, message = message.partition(b";")
        if session[:2] != SESSION:
            raise InvalidNumber
        if not compare_digest(session[2:], numbering.session.encode()):
            raise WrongSession
        number, message = split_number(message)
        if numbering.received.accept(number):
            try:
                self._router.post(peer, message, now)
            finally:
                self._note(peer, numbering)

    def _control(self, peer: Peer, numbering: Numbering, text: bytes) -> None:
        if text[:4] == ACK:
            was_full = numbering.is_full
            numbering.acknowledge(read_number(text[4:]))
            if was_full:
                self._delivery.drain(peer)
        elif text[:_CONTROL] == SKIP:
            numbering.received.accept(read_number(text[_CONTROL:]))
        else:
            raise InvalidNumber

    # Acknowledgements

    def _note(self, peer: Peer, numbering: Numbering) -> None:
        """Acknowledge what *peer* has sent: at once if that is much, else soon."""
        received = numbering.received
        if received.is_due and self._acknowledge(peer, numbering):
            return
        if received.is_untold:
            self.acknowledge_soon(peer)

    def acknowledge_soon(self, peer: Peer) -> None:
        """Acknowledge what *peer* has sent, within :data:`ACK_AFTER` seconds."""
        if not self._untold and self._call_later is not None:
            self._call_later(ACK_AFTER, self.acknowledge_all)
        self._untold[peer] = None

    def acknowledge_all(self) -> None:
        """Acknowledge what is not acknowledged."""
        untold, self._untold = self._untold, {}
        for peer in untold:
            numbering = peer.numbering
            if numbering is None or peer.connection is None or not numbering.received.is_untold:
                continue  # it is told when it comes back, or was told
            if not self._acknowledge(peer, numbering):
                self.acknowledge_soon(peer)

    @staticmethod
    def _acknowledge(peer: Peer, numbering: Numbering) -> bool:
        """Acknowledge all that *peer* has sent, if its connection has room."""
        connection = peer.connection
        if connection is None or connection.is_full:
            return False
        connection.send_text(numbering.received.acknowledgement())
        return True
