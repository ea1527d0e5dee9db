"""Moves databases from one relay of a cluster to others, at a quiet moment.

As a quiet stop (``quiet_stop.py``), but another relay goes on: requests that begin something new
are withheld until all else has ended, the connections are closed with 1012, what comes until then
is received, and the state of each database is sent to its new home. New requests wait meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from acebase_ipc.cluster.handshake import Ticket
from acebase_ipc.cluster.links import LinkFailed, Links
from acebase_ipc.cluster.node import Node
from acebase_ipc.relay.division import part_of
from acebase_ipc.relay.relay import Relay
from acebase_ipc.server.state_codec import decode, encode

CLOSE_MOVED: Final = 1012
"""Service restart: a client that connects again is served by the database's home."""

INTERVAL: Final = 0.02
"""Seconds between two looks at whether all is quiet, or closed."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for all clients together to close their connections."""

log = Logger()


class Moving:
    """Gives the databases of a relay to others, and takes over those of others.

    :param forget: called with a database that has moved, and the reason to tell its clients.
    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        relay: Relay,
        node: Node,
        links: Links,
        forget: Callable[[str, str], object],
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        self._relay = relay
        self._forget = forget
        self._node = node
        self._links = links
        self._reactor = reactor
        self._clock = clock
        self._lock = DeferredLock()

    # To other relays

    async def move_all(self) -> None:
        """Give all databases to other relays; those for which there is none stay.

        Waits until an earlier call has ended.
        """
        await self._lock.run(lambda: Deferred.fromCoroutine(self._move_all()))

    async def _move_all(self) -> None:
        names = {name for name in self._node.member.homes if self._node.choose(name) is not None}
        if not names:
            return
        quiesce = self._relay.quiesce
        await self._wait_quiet(names)
        self._node.hold(names)
        try:
            await self._close_connections(names)
            self._node.seal(names)
            state = self._relay.export(self._clock())
            moved = 0
            for name in names:
                moved += await self._move(name, encode(part_of(state, name)))
                self._node.release([name])
        finally:
            self._node.release(names)
            quiesce.end()
        log.info(
            "{moved} of {databases} database(s) have moved to other relays",
            moved=moved,
            databases=len(names),
        )

    async def _wait_quiet(self, names: Iterable[str]) -> None:
        quiesce, databases = self._relay.quiesce, self._relay.registry.databases
        began = self._clock()
        while True:
            now = self._clock()
            quiesce.begin([databases[each] for each in names if each in databases], now)
            if quiesce.is_quiet(now) or now >= began + quiesce.timeout:
                break
            await deferLater(self._reactor, INTERVAL)
        quiesce.report_unfinished(self._clock())

    async def _close_connections(self, names: Iterable[str]) -> None:
        self._relay.suspend(CLOSE_MOVED, "the database moves to another relay", names)
        end = self._clock() + CLOSE_TIMEOUT
        while open_now := self._relay.connections(names):
            if self._clock() >= end:
                for each in open_now:
                    each.abort()
                end += CLOSE_TIMEOUT
            await deferLater(self._reactor, INTERVAL)

    async def _move(self, name: str, state: bytes) -> bool:
        """Give a database to another relay; returns whether that serves it now."""
        place, node = self._node.choose(name), self._node
        epoch = node.member.homes.get(name)
        if place is None or place.relay is None or epoch is None:
            return False
        try:
            link = await self._links.send_state(
                place.address, Ticket(name, epoch, size=len(state)), state
            )
        except LinkFailed as error:
            log.warn("{database} stays here: {reason}", database=name, reason=str(error))
            return False
        await node.give(name, place.relay)
        try:
            await link.given()
        except LinkFailed:
            if await node.take_back(name):
                return False  # with all that it has
        self._forget(name, "the database has moved to another relay")
        return True

    # From other relays

    @property
    def max_state(self) -> int:
        """Bytes that the state of a database may have."""
        return max(self._relay.memory.limit - self._relay.memory.used, 0)

    def arrived(self, database: str, state: bytes) -> bool:
        """Note the state of a database that is about to come; returns whether it is taken."""
        try:
            decode(state)
        except Exception as error:
            log.error(
                "the state of {database} is not taken: {reason}",
                database=database,
                reason=str(error),
            )
            return False
        return self._node.arrived(database, state)

    def given(self, database: str) -> Deferred[bool]:
        """Serve a database whose state has arrived; fires with whether it is served here."""
        return Deferred.fromCoroutine(self._node.given(database))

    def not_given(self, database: str) -> None:
        """Forget the state of a database."""
        self._node.not_given(database)

    def adopt(self, database: str, state: bytes) -> None:
        """Go on with a database where another relay has ended."""
        try:
            self._relay.add(part_of(decode(state), database), self._clock())
        except Exception:
            self._relay.forget(database, CLOSE_MOVED, "the state of the database cannot be used")
            raise
