"""Clients whose connections are cut at any byte, and an account of every message.

It works in memory and over sockets: what is cut is the client's end, by a wrapper of its endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc import IPCClient
from acebase_ipc.client.session import Gap

NEVER = 1 << 60
"""Bytes that no connection carries."""

_SERIAL = re.compile(r"#(\w+)\|(\d+)#")


class _Cut(ProtocolWrapper):
    """A connection that breaks after so many bytes in one of its directions.

    :ivar up: bytes that are still sent.
    :ivar down: bytes that are still received.
    """

    transport: Any
    factory: Any

    def __init__(self, factory: Any, inner: Any) -> None:
        super().__init__(factory, inner)
        self.up, self.down = factory.limits()
        self.is_cut = False

    def write(self, data: bytes) -> None:
        if self.is_cut:
            return
        super().write(data[: self.up])
        self.up -= len(data)
        if self.up < 0:
            self.cut()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def dataReceived(self, data: bytes) -> None:
        if self.is_cut:
            return
        part = data[: self.down]
        self.down -= len(data)
        if part:
            super().dataReceived(part)
        if self.down < 0:
            self.cut()

    def cut(self) -> None:
        """Break it, as the network would."""
        if not self.is_cut:
            self.is_cut = True
            self.factory.endpoint.cuts += 1
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = Failure(ConnectionLost())) -> None:  # noqa: B008
        if self.is_cut:
            reason = Failure(ConnectionLost())
        super().connectionLost(reason)


class _Cuts(WrappingFactory):
    """Makes the connections of one attempt."""

    protocol = _Cut
    noisy = False

    def __init__(self, inner: Any, endpoint: CuttingEndpoint) -> None:
        super().__init__(inner)
        self.endpoint = endpoint
        self.limits = endpoint.limits

    def buildProtocol(self, address: Any) -> Any:
        protocol: Any = super().buildProtocol(address)
        self.endpoint.opened.append(protocol)
        return protocol


@implementer(IStreamClientEndpoint)
class CuttingEndpoint:
    """An endpoint whose connections break.

    :param endpoint: where to connect.
    :ivar limits: returns the bytes that the next connection sends, and receives, before it breaks.
    :ivar is_away: whether no connection can be made.
    :ivar cuts: how many have broken.
    :ivar opened: all connections.
    """

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.limits: Callable[[], tuple[int, int]] = lambda: (NEVER, NEVER)
        self.is_away = False
        self.cuts = 0
        self.opened: list[_Cut] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        """Begin to connect."""
        if self.is_away:
            return fail(ConnectionRefusedError())
        connecting: Deferred[Any] = self._endpoint.connect(_Cuts(factory, self))
        return connecting.addCallback(lambda protocol: protocol.wrappedProtocol)

    def cut(self) -> None:
        """Break all connections."""
        for each in self.opened:
            each.cut()
        self.opened.clear()

    def cut_after(self, up: int, down: int) -> None:
        """Let all open connections break after so many more bytes."""
        for each in self.opened:
            each.up, each.down = up, down


@dataclass(eq=False)
class Sent:
    """A message that a member has sent.

    :ivar to: its addressee; ``None`` for all.
    :ivar is_handed_over: whether it has left the client.
    :ivar is_confirmed: whether it is known to be relayed.
    :ivar has_failed: whether its sender was told that it may not have been sent.
    """

    to: str | None
    is_handed_over: bool = False
    is_confirmed: bool = False
    has_failed: bool = False


@dataclass(eq=False)
class Member:
    """A client, and what it has sent and received.

    :ivar received: the sender and number of each message, and ``None`` for each gap.
    """

    client: IPCClient
    sent: list[Sent] = field(default_factory=list)
    received: list[tuple[str, int] | None] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client.on_message(self._received)
        self.client.on_gap(self._gap)

    @property
    def id(self) -> str:
        """The client's id."""
        return self.client.id

    def _received(self, text: str) -> None:
        found = _SERIAL.match(text)
        assert found, text[:40]
        self.received.append((found[1], int(found[2])))

    def _gap(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self.received.append(None)
        handed_over = [each for each in self.sent if each.is_handed_over]
        for each in handed_over[len(handed_over) - gap.unconfirmed :]:
            each.has_failed = not each.is_confirmed

    def send(self, to: str | None, padding: str = "", confirm: bool = False) -> Deferred[None]:
        """Send a message that can be told from all others."""
        sent = Sent(to)
        self.sent.append(sent)
        body = f"#{self.id}|{len(self.sent) - 1}#{padding}"
        deferred = self.client.send(body, to, confirm=confirm)

        def failed(_: Failure) -> None:
            sent.has_failed = True

        def done(_: object) -> None:
            sent.is_handed_over = True
            sent.is_confirmed = confirm

        return deferred.addCallbacks(done, failed)


def check(members: list[Member]) -> list[str]:
    """Return what is wrong, when all has arrived that will.

    A message may be missing only where its receiver was told of a gap, or if its sender was told
    that it may not have been relayed.
    """
    findings = []
    for receiver in members:
        for sender in members:
            if sender is not receiver:
                findings += _check_pair(sender, receiver)
    return findings


def _check_pair(sender: Member, receiver: Member) -> list[str]:
    findings = []
    last = -1
    has_gap = False
    for each in (*receiver.received, (sender.id, len(sender.sent))):
        if each is None:
            has_gap = True
        elif each[0] == sender.id:
            number = each[1]
            if number <= last:
                findings.append(f"{sender.id} -> {receiver.id}: {number} after {last}")
            for missing in range(last + 1, number):
                sent = sender.sent[missing]
                is_expected = sent.to in (None, receiver.id)
                if is_expected and not has_gap and (sent.is_confirmed or not sent.has_failed):
                    findings.append(f"{sender.id} -> {receiver.id}: {missing} is missing")
            last, has_gap = max(last, number), False
    return findings
