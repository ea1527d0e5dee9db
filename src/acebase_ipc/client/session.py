"""A client's resumable session, which outlasts connections, and the gaps between sessions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import quote

from acebase_ipc.protocol.messages import Welcome
from acebase_ipc.protocol.numbers import ReceivedNumbers


class GapReason(Enum):
    """Why messages may be lost."""

    RELAY_RESTARTED = "the relay was restarted without its state"
    SESSION_ENDED = "the session had ended before the client came back"
    NO_SESSION = "the client has no session that outlasts a connection"
    DOWNLOAD_FAILED = "a large message could not be downloaded"


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages to a client may be lost at this place.

    :ivar reason: why.
    :ivar unconfirmed: how many of its own messages may or may not have been relayed, as far as that
        is known: those that were not acknowledged when the session ended.
    """

    reason: GapReason
    unconfirmed: int = 0


class Session:
    """What a client has to remember to go on after a reconnect.

    :param is_wanted: whether to ask the relay for a resumable session.
    :ivar is_resumed: whether the present connection goes on with the session of the one before.
    :ivar received: the numbers of the messages that have arrived in it.
    """

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self.clear()

    def clear(self) -> None:
        """Forget the session: the client begins anew."""
        self._name = ""
        self._epoch = ""
        self._had_connection = False
        self.is_resumed = False
        self.received = ReceivedNumbers()

    @property
    def is_active(self) -> bool:
        """Whether there is a resumable session, so that messages have numbers."""
        return bool(self._name)

    @property
    def query(self) -> str:
        """What the query of the next handshake has to hold, after the other parameters."""
        if not self._is_wanted:
            return ""
        if not self._name:
            return "&resume=1"
        return f"&resume=1&session={quote(self._name, safe='')}&last={self.received.last}"

    def posted(self, message: bytes) -> bytes:
        """Return the body of the POST for *message*."""
        return b"s:%b;%b" % (self._name.encode(), message) if self._name else message

    def welcomed(self, welcome: Welcome) -> GapReason | None:
        """Note the session of a new connection.

        :returns: why there is a gap between this connection and the one before; ``None`` without.
        """
        had_connection, self._had_connection = self._had_connection, True
        self.is_resumed = welcome.is_resumed and self._name == welcome.session
        if self.is_resumed:
            self.received.told = self.received.last
            return None
        name, epoch = self._name, self._epoch
        self._name, self._epoch = welcome.session, welcome.epoch
        self.received = ReceivedNumbers()
        if not had_connection:
            return None
        if not name or not self._name:
            return GapReason.NO_SESSION
        is_same_relay = epoch == self._epoch
        return GapReason.SESSION_ENDED if is_same_relay else GapReason.RELAY_RESTARTED
