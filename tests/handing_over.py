"""Hands the peers of one relay in memory over to another one."""

from __future__ import annotations

import os
import socket
from typing import Any

import cbor2
import pytest

from acebase_ipc.server.handover import snapshot
from acebase_ipc.testing import MemoryRelay
from acebase_ipc.testing.reactor import MemoryReactor
from acebase_ipc.testing.sockets import MemorySocket, connected_sockets


def pass_on(far: MemorySocket) -> MemorySocket:
    """Return what another process receives for *far*: the same end of the same connection."""
    copy = MemorySocket(socket.socket(fileno=os.dup(far.fileno())), far.getsockname())
    copy.inbox, copy.room, copy.options = far.inbox, far.room, dict(far.options)
    copy.left, copy.other = far.left, far.other
    copy.other.other = copy
    far.other, end = connected_sockets(("127.0.0.1", 1), ("127.0.0.1", 2))  # its end is not noticed
    far.other.close()
    end.close()
    far.inbox = bytearray()
    return copy


class Successors:
    """Relays in memory, each of which takes over from the one before.

    :param kind: the class of each.
    :param options: of each.
    :ivar options: the same, for the next one.
    :ivar relay: the present one.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[MemoryRelay] = MemoryRelay, **options: Any
    ) -> None:
        self._monkeypatch = monkeypatch
        self._kind = kind
        self.options = {"port": 0, **options}
        self.relay = kind(**self.options)
        self._all = [self.relay]

    def hand_over(self) -> snapshot.Snapshot:
        """Let a new relay take over all connections; returns what was handed over."""
        old = self.relay
        departure = old.server.depart()
        told = list(iter(lambda: departure.past(1), []))
        first = departure.announce(1)  # the others follow with the snapshot
        taken, state = old.server.take_snapshot(departure), old.server.export()
        again = old.server.take_snapshot(departure)
        assert (again.content["websockets"], old.server.export()) == (
            taken.content["websockets"],
            state,
        )
        transports: list[Any] = [each for _, each in (*taken.websockets, *taken.channels)]
        sockets = {each.fileno(): each.getHandle() for each in transports}
        self._monkeypatch.setattr(
            snapshot, "_socket", lambda family, descriptor: pass_on(sockets[descriptor])
        )
        reactor: MemoryReactor = old.reactor
        self.relay = new = self._kind(reactor=reactor, **self.options)
        self._all.append(new)
        arrival = new.server.arrive()
        for events in told:
            arrival.told_of(cbor2.loads(cbor2.dumps(events)))
        for opened, descriptors in (first, taken.batch):
            arrival.announced(cbor2.loads(cbor2.dumps(opened)), descriptors)
        arrival.adopt_connections(cbor2.loads(cbor2.dumps(taken.content)))
        arrival.adopt(state["relay"], new.now)
        assert len(arrival) == len(taken.websockets)
        taken.release()
        arrival.resume(new.server.listeners)
        new.settle()
        return taken

    def close(self) -> None:
        """Stop all relays."""
        self.relay.stop()
        self.relay.reactor.close()
