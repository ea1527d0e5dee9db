"""Decides who receives a message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from acebase_ipc.protocol.dialect import (
    ACEBASE,
    BYE_START,
    DOCUMENTED,
    ENVELOPE_START,
    is_envelope,
    is_from,
)
from acebase_ipc.protocol.errors import MessageTooLarge
from acebase_ipc.protocol.messages import (
    MASTER,
    OTHERS,
    PONG,
    RELAY,
    Audience,
    Message,
    announcement,
    parse,
    render,
    utf16_units,
)
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.events import DialectDetected, DropReason, MessageDropped, Observer
from acebase_ipc.relay.history import Histories
from acebase_ipc.relay.interest import Interest
from acebase_ipc.relay.introductions import Introductions
from acebase_ipc.relay.limits import MAX_UTF8_PER_UNIT, Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.quiesce import Quiesce
from acebase_ipc.relay.recovery import LockRecovery
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.relay.work import SLICE

# A comparison of slices takes less time than a call of startswith.
_ENVELOPE_LENGTH = len(ENVELOPE_START)

# Texts of one byte always are the same objects, which know their hashes.
_SECOND = len(ENVELOPE_START) + 1
_THIRD = _SECOND + 1
_ABOUT_SENDER = frozenset({b"y", b"u", b"n"})
"""The second letters of ``bye``, ``subscribe`` and ``unsubscribe``: they are about the sender."""

_ANSWERS = _ABOUT_SENDER | {b"e"}
"""That of ``hello`` as well, where a peer may have been asked for its subscriptions."""


class Router:
    """Relays messages between the peers of each database, and never between databases.

    It does no I/O beyond the methods of :class:`~acebase_ipc.relay.peers.Connection`.

    :ivar max_payload: UTF-16 code units that a WebSocket message may have.
    :ivar watch: called with the sender, the addressee and the body of each message before it is
        relayed, while somebody watches; must not raise.
    """

    def __init__(
        self,
        limits: Limits,
        delivery: Delivery,
        introductions: Introductions,
        store: MessageStore,
        recovery: LockRecovery,
        quiesce: Quiesce,
        interest: Interest,
        histories: Histories,
        observer: Observer,
    ) -> None:
        self.max_payload = limits.payload_limit
        self.watch: Callable[[Peer, bytes | Audience, bytes], object] | None = None
        self._work = delivery.work
        self._delivery = delivery
        self._keep = delivery.keep
        self._introductions = introductions
        self._store = store
        self._recovery = recovery
        self._short_way = recovery.short_way
        self._withholds = quiesce.withholds
        self._interest = interest
        self._histories = histories
        self._observer = observer
        self._pong = Message(PONG)

    def receive(self, sender: Peer, texts: list[bytes]) -> int:
        """Relay text messages, valid UTF-8, from *sender*'s WebSocket, up to a slice of work.

        Nothing is relayed after a message that has ended the connection. Events that nobody wants
        any more are removed from *texts*.

        :returns: how many of *texts* were relayed.
        :raises MessageTooLarge: above ``max_payload`` UTF-16 code units.
        :raises InvalidAddress: for a malformed ``to:``.
        """
        taken = 0
        unsubscribed = sender.database.unsubscribed
        if unsubscribed:
            self._interest.drop_unwanted(sender, texts)
        account = sender.account
        if account is not None or sender.id == MASTER:
            if self.watch is not None:
                pass  # it is shown each message
            elif account is not None:
                taken = self._short_way.ask(sender, account, texts)
            else:
                taken = self._short_way.answer(sender, texts)
            if taken == len(texts):
                return taken
            texts = texts[taken:]
        about_sender = _ANSWERS if unsubscribed else _ABOUT_SENDER
        connection, traffic, work = sender.connection, sender.traffic, self._work
        end = work.units + SLICE
        for text in texts:
            taken += 1
            size = len(text)
            if size > self.max_payload and self._is_large(text):
                raise MessageTooLarge(self.max_payload)
            traffic.received += 1
            traffic.received_bytes += size
            addressee, body = parse(text)
            if sender.dialect is ACEBASE:
                may_matter = body[_SECOND:_THIRD] in about_sender
            else:
                may_matter = (
                    not sender.dialect_settled and body[:_ENVELOPE_LENGTH] == ENVELOPE_START
                )
            if not may_matter or self._is_relayed(sender, addressee, body):
                if self.watch is not None:
                    self.watch(sender, addressee, body)
                self._deliver(sender, addressee, body)
            if sender.connection is not connection or work.units >= end:
                break
        return taken

    def post(self, sender: Peer, message: bytes, now: float) -> None:
        """Relay a message, valid UTF-8 of any size, that *sender* has posted.

        :param now: monotonic seconds.
        :raises InvalidAddress: for a malformed ``to:``.
        """
        addressee, body = parse(message)
        sender.traffic.received += 1
        sender.traffic.received_bytes += len(message)
        if sender.database.unsubscribed and self._interest.is_unwanted(sender, message):
            return
        if not self._is_relayed(sender, addressee, body):
            return
        if self.watch is not None:
            self.watch(sender, addressee, body)
        if self._is_large(body):
            self._deliver_large(sender, addressee, body, now)
        else:
            self._deliver(sender, addressee, body)

    def stores_large_messages(self, sender: Peer) -> bool:
        """Return whether a large message of *sender* may have to be stored for a download."""
        return any(each.dialect is DOCUMENTED for each in sender.database.peers.values())

    def ignore_binary(self, peer: Peer) -> None:
        """Count a binary message of *peer*: these are not relayed."""
        self._drop(peer.database.name, peer.client_id, DropReason.BINARY)

    def _is_large(self, text: bytes) -> bool:
        limit = self.max_payload
        return len(text) > limit and (
            len(text) > limit * MAX_UTF8_PER_UNIT or utf16_units(text) > limit
        )

    def _is_relayed(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> bool:
        """Note what an envelope shows about its sender.

        :returns: whether the envelope is to be relayed.
        """
        if not sender.dialect_settled and body.startswith(ENVELOPE_START):
            self._detect_dialect(sender, body)
        if sender.dialect is ACEBASE and body.startswith(BYE_START):
            if not is_from(body, sender.client_id):
                # The npm package acebase broadcasts a bye for each peer that disconnects. A
                # late one would destroy the subscriptions of a peer that has reconnected.
                self._drop(sender.database.name, sender.client_id, DropReason.FOREIGN_BYE)
                return False
            if addressee is OTHERS:
                sender.said_bye = True
                self._recovery.worker_gone(sender)
        elif sender.dialect is ACEBASE:
            self._interest.note(sender, addressee, body)
        return True

    def _detect_dialect(self, sender: Peer, body: bytes) -> None:
        if is_envelope(body, sender.client_id):
            sender.speak(ACEBASE, settled=True)
            self._observer.report(DialectDetected(sender.database.name, sender.client_id))
            self._introductions.introduce(sender)

    def _deliver(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> None:
        if addressee is OTHERS:
            self._delivery.broadcast(sender, body)
        elif addressee is RELAY:
            sender.database.pings += 1
            self._delivery.send(sender, self._pong)
        else:
            peer = sender.database.peers.get(addressee)
            if sender.dialect is ACEBASE and peer is not sender:
                noted: bytes | None = body
                if sender.id == MASTER:
                    noted = self._recovery.answered(sender.database, peer, addressee, body)
                elif addressee == MASTER:
                    noted = self._recovery.requested(sender, body)
                    if sender.database.withheld and noted and self._withholds(sender, noted):
                        kept = Message(render(noted, ACEBASE))
                        self._delivery.keep_for_master(sender.database, kept, sender)
                        return
                if noted is None:
                    return
                body = noted
            if peer is None:
                self._deliver_to_absent(sender, addressee, body)
                return
            connection = peer.connection
            if connection is not None and not connection.is_full:
                connection.send_text(render(body, peer.dialect))  # the common case
            else:
                # What a master has answered outlasts it; what a dead worker asks does not.
                asking = None if sender.id == MASTER else sender
                self._keep(peer, Message(render(body, peer.dialect)), asking)

    def _deliver_to_absent(self, sender: Peer, addressee: bytes, body: bytes) -> None:
        database = sender.database
        if addressee == MASTER and self._delivery.waits_for_master(sender):
            self._delivery.keep_for_master(database, Message(render(body, ACEBASE)), sender)
        elif not self._histories.received(sender, addressee, body):
            self._drop(database.name, addressee.decode(), DropReason.UNKNOWN_ADDRESSEE)

    def send_own(self, recipients: Sequence[Peer], body: bytes, now: float) -> None:
        """Send *body*, valid UTF-8 of any size, to peers of one database, as the relay's own.

        :param now: monotonic seconds.
        """
        announced = self._announce(recipients, body, now) if self._is_large(body) else None
        self._send_each(recipients, body, announced, None)

    def _deliver_large(
        self, sender: Peer, addressee: bytes | Audience, body: bytes, now: float
    ) -> None:
        database = sender.database
        if isinstance(addressee, Audience):
            recipients = [each for each in database.peers.values() if each is not sender]
        else:
            recipients = [each for each in (database.peers.get(addressee),) if each]
        announced = self._announce(recipients, body, now)
        if announced is None:
            self._deliver(sender, addressee, body)
        else:
            by = None if addressee is OTHERS or sender.id == MASTER else sender
            self._send_each(recipients, body, announced, by)

    def _announce(self, recipients: Sequence[Peer], body: bytes, now: float) -> Message | None:
        """Store a large *body* for the documented ones of *recipients*.

        Acebase peers cannot download, and accept messages of any size.

        :returns: the message that tells them; ``None`` if there are none.
        """
        downloads = [each.id for each in recipients if each.dialect is DOCUMENTED]
        if not downloads:
            return None
        name = recipients[0].database.name
        return Message(announcement(self._store.put(name, body, downloads, now)))

    def _send_each(
        self, recipients: Sequence[Peer], body: bytes, documented: Message | None, by: Peer | None
    ) -> None:
        """Send *body* to each, rendered once for each dialect.

        :param documented: what documented peers receive instead.
        :param by: the peer that has addressed it.
        """
        acebase = None
        self._work.units += len(recipients)
        for peer in recipients:
            if peer.dialect is DOCUMENTED:
                message = documented = documented or Message(render(body, DOCUMENTED))
            else:
                message = acebase = acebase or Message(render(body, ACEBASE))
            self._delivery.send(peer, message, by)

    def _drop(self, database: str, client_id: str, reason: DropReason) -> None:
        self._observer.report(MessageDropped(database, client_id, reason))
