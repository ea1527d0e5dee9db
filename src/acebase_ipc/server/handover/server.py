"""A server whose process can be replaced by another one while its clients stay connected."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from acebase_ipc.server.handover.posted import PostsOfPredecessor, PostsToSuccessor
from acebase_ipc.server.handover.preparing import Preparation
from acebase_ipc.server.handover.snapshot import Arrival, Departure, Snapshot
from acebase_ipc.server.handover.sockets import ListeningSocket
from acebase_ipc.server.handover.successor import Link
from acebase_ipc.server.handover.wire import HandOverError, Wire
from acebase_ipc.server.listener import Listener
from acebase_ipc.server.service import SHUTDOWN_TIMEOUT, AceBaseIPCServer, State
from acebase_ipc.server.state_codec import decode, encode


class ReplaceableServer(AceBaseIPCServer):
    """A server that can hand all its connections over to a successor, or be one.

    What it does for that is called in this order: by a server that hands over
    :meth:`listening_sockets`, :meth:`prepare`, :meth:`depart`, :meth:`take_snapshot`,
    :meth:`export`, :meth:`release` and :meth:`finish_requests`, or :meth:`go_on` if that fails; by
    its successor :meth:`arrive`, :meth:`adopt` and :meth:`resume`.
    """

    _preparation: Preparation | None = None
    _paused_at = 0.0

    def listening_sockets(self) -> list[ListeningSocket]:
        """Return the sockets that it listens on, for a successor.

        :raises ConfigError: if an endpoint has none of its own.
        :raises HandOverError: if it is a member of a cluster.
        """
        self._check_alone()
        sockets = map(Listener.listening_socket, self._all_listeners)
        return [each for each in sockets if each is not None]

    def _check_alone(self) -> None:
        if self._parts.cluster is not None:
            raise HandOverError("a relay of a cluster is restarted: the others go on meanwhile")

    @property
    def journal_lock(self) -> int | None:
        """The descriptor of the locked state directory; ``None`` without one."""
        return None if self._parts.journal is None else self._parts.journal.lock

    def prepare(self) -> Deferred[None]:
        """Close what cannot be handed over; fires when that is done."""
        self._preparation = Preparation(self._parts, self.listeners, self._reactor, self._clock)
        return Deferred.fromCoroutine(self._preparation.run())

    def go_on(self) -> None:
        """Go on after :meth:`prepare`, because the hand-over has failed."""
        preparation, self._preparation = self._preparation, None
        if preparation is not None:
            preparation.undo()

    def depart(self) -> Departure:
        """Return the connections that a hand-over takes along."""
        return Departure(self._parts, self.listeners, self._history)

    def take_snapshot(self, departure: Departure) -> Snapshot:
        """Return the connections; it changes nothing, but that messages are written.

        :raises HandOverError: if it is about to stop.
        """
        if self._state is not State.RUNNING:
            raise HandOverError("it is about to stop")
        self._paused_at = self._clock()
        return departure.take(self._paused_at)

    def export(self) -> dict[str, Any]:
        """Return all else that a successor needs."""
        return {
            "relay": encode(self._parts.relay.export(self._paused_at)),
            "counted": None if self._admin is None else self._admin.export(),
            "is_draining": self._parts.admission.is_draining,
            "since": self._paused_at,
        }

    def release(self, snapshot: Snapshot, journal_is_taken: bool) -> None:
        """Forget what a successor has now; nothing of it is closed."""
        self._state = State.HANDED_OVER
        self._ticking.stop()
        if self._parts.journal is not None:
            self._parts.journal.release(journal_is_taken)
        self._has_journal = False
        for listener in self._all_listeners:
            listener.release()
        snapshot.release()

    def finish_requests(self, timeout: float, wire: Wire) -> Deferred[Any]:
        """Let the requests under way be answered, within *timeout* seconds, after a hand-over.

        WebSockets that were closing already have the usual time for that.

        :param wire: the socket to the successor, which is told of their messages and downloads.
        """
        posts = PostsToSuccessor(wire, self._reactor)
        self._parts.site.context.pass_on = posts.post
        self._parts.relay.store.pass_on = posts.fetched
        closing = self._parts.connections.wait_closed(SHUTDOWN_TIMEOUT)
        return gatherResults([self._parts.site.close(timeout), closing], consumeErrors=True)

    def arrive(self) -> Arrival:
        """Listen, but accept nothing yet; returns what receives the connections of a predecessor.

        :raises CannotListenError: if a port cannot be opened.
        :raises HandOverError: if it is a member of a cluster.
        """
        self._check_alone()
        self.privilegedStartService()
        decode(encode(self._parts.relay.export(self._clock())))  # the first time takes longest
        return Arrival(self._parts, self._history)

    def adopt(self, arrival: Arrival, state: dict[str, Any], journal_lock: int | None) -> bool:
        """Go on in the place of a predecessor, but use none of its connections yet.

        :param state: what it has exported beside its connections, which have arrived.
        :param journal_lock: the descriptor of its locked state directory.
        :returns: whether its journal goes on here.
        :raises Exception: if that is not possible; then the process has to end without closing a
            connection.
        """
        journal, takes_journal = self._parts.journal, False
        if journal is not None:
            takes_journal = journal.begin(journal_lock)
        elif journal_lock is not None:
            os.close(journal_lock)
        self._has_journal = True
        arrival.adopt(state["relay"], self._clock())
        if self._admin is not None and state["counted"] is not None:
            self._admin.adopt(state["counted"])
        self._parts.admission.is_draining = state["is_draining"]
        return takes_journal

    def resume(self, arrival: Arrival, link: Link) -> None:
        """Go on with the connections of a predecessor, which does not use them any more."""
        if self._parts.journal is not None:
            self._parts.journal.commit()
        arrival.resume(self.listeners)
        self._parts.relay.quiesce.end()
        PostsOfPredecessor(
            link.wire,
            self._reactor,
            lambda database, client_id, body: self._parts.post(
                database, client_id, body, self._clock()
            ),
            lambda key: self._parts.relay.store.note_fetched(key, self._clock()),
        )
        link.release()
        self._report_listening(None)
        self._parts.connections.check_access(self._parts.access.revoked)
