"""What a peer has unsubscribed from, and how certain that is."""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

from acebase_ipc.relay.limits import KIB

MAX_MEMORY: Final = 64 * KIB
"""Bytes that are kept for one peer; what it has unsubscribed from first is forgotten first."""

ENTRY_OVERHEAD: Final = 160
"""Bytes that one place in a dict occupies, with the header of its key."""

ASK_INTERVAL: Final = 5.0
"""Seconds between two questions to a peer, at least."""

ANSWER_TIME: Final = 0.05
"""Seconds more for each message of the last answer, so that a peer with many subscriptions that
come and go sends 20 messages a second for this."""


class Certainty(Enum):
    """How certain it is that a peer has no subscription."""

    CLAIMED = "it has unsubscribed, perhaps from one of several"
    ASKED = "its subscriptions are awaited"
    CERTAIN = "it has none"


class Unsubscribed:
    """What one peer has unsubscribed from.

    :ivar states: each path and kind of event, as events have them.
    :ivar memory: the bytes that they occupy.
    :ivar listed: the number of messages in the peer's last answer.
    """

    __slots__ = ("_connection", "_last_question", "_was_greeted", "listed", "memory", "states")

    def __init__(self, connection: object) -> None:
        """:param connection: the peer's connection now."""
        self._connection = connection
        self._last_question = -math.inf
        self._was_greeted = False
        self.states: dict[bytes, Certainty] = {}
        self.memory = 0
        self.listed = 0

    def add(self, key: bytes) -> None:
        """Note that the peer has unsubscribed from *key*, unless that is known."""
        if key in self.states:
            return
        self.states[key] = Certainty.CLAIMED
        self.memory += len(key) + ENTRY_OVERHEAD
        while self.memory > MAX_MEMORY:
            self.discard(next(iter(self.states)))

    def discard(self, key: bytes) -> None:
        """Note that the peer is subscribed to *key*, or that this is not known."""
        if self.states.pop(key, None) is not None:
            self.memory -= len(key) + ENTRY_OVERHEAD

    def state(self, key: bytes, connection: object) -> Certainty | None:
        """Return how certain it is that the peer has no subscription; ``None`` if it may have.

        :param connection: the peer's connection now.
        """
        state = self.states.get(key)
        if state is not None and self._connection is not connection:
            self._doubt(connection)
            return Certainty.CLAIMED
        return state

    def _doubt(self, connection: object) -> None:
        """Be certain of nothing: what the peer has sent over its last connection may be lost."""
        self._connection = connection
        self._was_greeted = False
        self.states = dict.fromkeys(self.states, Certainty.CLAIMED)

    def may_be_asked(self, now: float) -> bool:
        """Return whether enough time has passed since the last question.

        :param now: monotonic seconds.
        """
        return now >= self._last_question + ASK_INTERVAL + ANSWER_TIME * self.listed

    def asked(self, now: float) -> None:
        """Note that the peer is asked now for its subscriptions."""
        self._last_question = now
        self._was_greeted = False
        self.states = {
            key: Certainty.ASKED if state is Certainty.CLAIMED else state
            for key, state in self.states.items()
        }

    def greeted(self) -> None:
        """Note a ``hello`` of the peer: the end of what it was asked for, if it is the second."""
        if self._was_greeted:
            self._was_greeted = False
            self.states = {
                key: Certainty.CERTAIN if state is Certainty.ASKED else state
                for key, state in self.states.items()
            }
        elif Certainty.ASKED in self.states.values():
            self._was_greeted = True
            self.listed = 0
