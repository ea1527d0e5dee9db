"""Gives a master time to open its files before it is asked for what is in them.

A process of the npm package acebase connects and opens its files at the same time. A master that
is asked to allocate records before it has read its table of free space takes the file for an
empty one: it gives away the first records, which are in use. A request that waits for a
master would reach it in that moment. So would one of a worker that has not noticed its absence.

Measured with acebase 1.29.13 on a busy machine: the table was read 0.1 to 1.2 s after the start
of the process, once 28 ms after the request of a worker had been answered from an empty one.
"""

from __future__ import annotations

from collections.abc import Callable

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import is_about_files
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.peers import FILES, Database, Peer
from acebase_ipc.relay.queue import MessageQueue


class WarmUp:
    """Lets requests about files wait while a master may not have opened them.

    They wait together with what is addressed to an absent master. Requests about locks do not
    wait: a process can answer them from its start.

    :param clock: returns monotonic seconds.
    :ivar seconds: how long a master that has arrived may take; 0: no request waits.
    """

    def __init__(self, delivery: Delivery, seconds: float, clock: Callable[[], float]) -> None:
        self._delivery = delivery
        self.seconds = seconds
        self._clock = clock
        self._until: dict[Database, float] = {}

    def begin(self, master: Peer, queue: MessageQueue) -> None:
        """Let requests about files wait, those in *queue*, which *master* receives next, first."""
        if self.seconds and master.dialect is ACEBASE:
            database = master.database
            database.withheld |= FILES
            self._until[database] = self._clock() + self.seconds
            held = queue.take_if(lambda message: is_about_files(message.text))
            if held:
                held.move_to(self._delivery.awaiting(database))

    def left(self, database: Database, now: float) -> float | None:
        """Return the time until the master of *database* has opened its files, if it has not."""
        return self._until[database] - now if database.withheld & FILES else None

    def adopt(self, database: Database, left: float | None, now: float) -> None:
        """Let requests about files wait for so long, if there is a time left."""
        if left is not None:
            database.withheld |= FILES
            self._until[database] = now + left

    def expire(self, now: float) -> None:
        """Deliver what waits for masters that have had their time.

        To be called about once a second.

        :param now: monotonic seconds.
        """
        for database, until in tuple(self._until.items()):
            if now >= until:
                del self._until[database]
                self._delivery.release(database, FILES)
