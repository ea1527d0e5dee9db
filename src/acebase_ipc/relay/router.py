"""Who receives what."""

from __future__ import annotations

from collections.abc import Iterable

from acebase_ipc.protocol.dialect import (
    ACEBASE,
    BYE_START,
    DOCUMENTED,
    ENVELOPE_START,
    is_envelope,
    is_from,
)
from acebase_ipc.protocol.errors import MessageTooLarge
from acebase_ipc.protocol.frames import text_frame
from acebase_ipc.protocol.messages import (
    MASTER,
    OTHERS,
    PONG,
    RELAY,
    Audience,
    announcement,
    parse,
    render,
    utf16_units,
)
from acebase_ipc.relay.events import DialectDetected, DropReason, MessageDropped
from acebase_ipc.relay.peers import FLOWING, Database, Peer
from acebase_ipc.relay.sessions import Membership

_PONG_FRAME = text_frame(PONG)


class Relay(Membership):
    """Relays messages between the peers of each database, and never between databases.

    Every change enters through a method, with the time as an argument where it
    matters: *now* is in seconds of a clock that never jumps, *wall* in
    milliseconds since 1970. The relay does no I/O beyond the methods of
    :class:`~acebase_ipc.relay.peers.Connection`.
    """

    def receive(self, sender: Peer, message: bytes) -> None:
        """Relay a text message, valid UTF-8, that came over *sender*'s WebSocket.

        :raises MessageTooLarge: above maxPayload UTF-16 code units.
        :raises InvalidAddress: for a malformed ``to:``.
        """
        if len(message) > self.max_payload and self._is_large(message):
            raise MessageTooLarge(self.max_payload)
        addressee, body = parse(message)
        if sender.dialect_settled and not body.startswith(BYE_START):
            relayed = True  # as nearly all are
        else:
            relayed = self._is_relayed(sender, addressee, body)
        if relayed:
            self._deliver(sender, addressee, body)

    def post(self, sender: Peer, message: bytes, now: float) -> None:
        """Relay a message, valid UTF-8 of any size, that *sender* has posted.

        :raises InvalidAddress: for a malformed ``to:``.
        """
        addressee, body = parse(message)
        if not self._is_relayed(sender, addressee, body):
            return
        if self._is_large(body):
            self._deliver_large(sender, addressee, body, now)
        else:
            self._deliver(sender, addressee, body)

    def keeps_large_messages(self, sender: Peer) -> bool:
        """Whether a large message of *sender* may have to be kept for a download."""
        return any(each.dialect is DOCUMENTED for each in sender.database.peers.values())

    def _is_large(self, text: bytes) -> bool:
        return len(text) > self.max_payload and utf16_units(text) > self.max_payload

    def _is_relayed(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> bool:
        """Learn from an envelope what it says of its sender; whether to relay it."""
        if not sender.dialect_settled and body.startswith(ENVELOPE_START):
            self._recognise(sender, body)
        if sender.dialect is ACEBASE and body.startswith(BYE_START):
            if not is_from(body, sender.client_id):
                # Published clients say goodbye for every peer they see go; a late
                # one would destroy the subscriptions of a peer that has come back.
                self._dropped(sender, DropReason.FOREIGN_BYE, 1)
                return False
            if addressee is OTHERS:
                sender.said_bye = True
        return True

    def _recognise(self, sender: Peer, body: bytes) -> None:
        if is_envelope(body, sender.client_id):
            sender.dialect = ACEBASE
            sender.dialect_settled = True
            self._observer.report(DialectDetected(sender.database.name, sender.client_id))
            self._greet(sender)

    def _deliver(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> None:
        if addressee is OTHERS:
            self._broadcast(sender, body)
        elif addressee is RELAY:
            self._send(sender, _PONG_FRAME)
        else:
            peer = sender.database.peers.get(addressee)
            if peer is None:
                self._deliver_to_absent(sender, addressee, body)
            else:
                self._send(peer, text_frame(render(body, peer.dialect)), sender.id)

    def _deliver_to_absent(self, sender: Peer, addressee: bytes, body: bytes) -> None:
        database = sender.database
        if addressee == MASTER and self._delivery.holds_for_master(sender):
            frame = text_frame(render(body, ACEBASE))
            self._delivery.hold_for_master(database, frame, sender.id)
        else:
            name = addressee.decode()
            self._observer.report(MessageDropped(database.name, name, DropReason.UNKNOWN_ADDRESSEE))

    def _broadcast(self, sender: Peer, body: bytes) -> None:
        documented = acebase = None  # each rendering is built once, if anybody needs it
        for peer in sender.database.peers.values():
            if peer is sender:
                continue
            if peer.dialect is ACEBASE:
                frame = acebase = acebase or text_frame(render(body, ACEBASE))
            else:
                frame = documented = documented or text_frame(render(body, DOCUMENTED))
            connection = peer.connection
            if peer.state is FLOWING and connection is not None:
                connection.send(frame)  # as to nearly all, at the cost of one call less
            else:
                self._send(peer, frame)

    def _deliver_large(
        self, sender: Peer, addressee: bytes | Audience, body: bytes, now: float
    ) -> None:
        """Announce *body* to documented recipients; send it inline to acebase peers,
        which cannot download and accept any size."""
        database = sender.database
        if isinstance(addressee, Audience):
            recipients = [each for each in database.peers.values() if each is not sender]
        else:
            recipients = [each for each in (database.peers.get(addressee),) if each]
        downloads = [each.id for each in recipients if each.dialect is DOCUMENTED]
        if not downloads:
            self._deliver(sender, addressee, body)
            return
        waiting = self.mailbox.put(database.name, body, downloads, now)
        frame = text_frame(announcement(waiting))
        inline = None
        by = None if addressee is OTHERS else sender.id
        for peer in recipients:
            if peer.dialect is DOCUMENTED:
                self._send(peer, frame, by)
            else:
                inline = inline or text_frame(render(body, ACEBASE))
                self._send(peer, inline, by)

    def binary_ignored(self, peer: Peer) -> None:
        """*peer* has sent a binary message: these are not relayed."""
        self._dropped(peer, DropReason.BINARY, 1)

    def expire(self, now: float) -> None:
        """End what has lasted too long; to be called about once a second."""
        for database, recipient in self.mailbox.expire(now):
            self._observer.report(MessageDropped(database, recipient.decode(), DropReason.EXPIRED))
        super().expire(now)

    def enforce_memory_limit(self, half_received: Iterable[Peer], elsewhere: int) -> None:
        """SlowConsumer those who need most while all together needs more than ``max_memory``.

        To be called about once a second.

        :param half_received: the peers of whose messages only a part has come.
        :param elsewhere: bytes that are needed outside of the relay.
        """
        weights: dict[Peer | Database, int] = {
            each: each.weight for each in {*self._delivery.backlogged(), *half_received}
        }
        for database in self._databases.values():
            if database.awaiting_master:
                weights[database] = database.awaiting_master.size
        used = elsewhere + self.mailbox.stored + sum(weights.values())
        if used <= self._max_memory:
            return
        # A frame that waits for many is one piece of memory: count it once.
        backlogs = [each.backlog for each in weights if isinstance(each, Peer)]
        shared = {id(frame): len(frame) for backlog in backlogs for frame in backlog.frames()}
        used += sum(shared.values()) - sum(each.size for each in backlogs)
        for burden in sorted(weights, key=weights.__getitem__, reverse=True):
            if used <= self._max_memory:
                return
            used -= weights[burden]
            if isinstance(burden, Peer):
                self._delivery.give_up(burden)
            else:
                self._delivery.give_up_awaiting(burden)
