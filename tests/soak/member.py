"""One peer of the soak: its connections, and what it sends and receives."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from weakref import WeakKeyDictionary

from tests.soak.ledger import ALL, Ledger, Presence, Receiver, Sent
from tests.soak.link import TIMEOUT, Link, Port, ask

TOKEN = "soak+token=="
MAX_PAYLOAD = 16 * 1024
"""UTF-16 units. Peers of both dialects POST larger messages, also over TLS."""

LARGEST = 300_000
"""Characters of a large message."""

SESSION_TIMEOUT = 6.0
RESTARTED_TIMEOUT = 20.0
"""The same of a relay that is restarted, which takes its time if some peers do not answer."""

KEEPALIVE = 8.0
"""Seconds until a peer that does not answer is disconnected."""

REST_HAS_COME = "the rest has come"
"""What a member sends to itself."""

MASTER = "[master]"

_CONTENTS = ("x", "é", "語", "😀", string.ascii_letters)


class Surprise(Exception):
    """The relay has given an answer that the protocol does not allow."""


@dataclass(slots=True)
class Scene:
    """State that all members share.

    :ivar ports: the relay's ports, without and with TLS.
    :ivar pause: longest standstill of this process recently, in seconds.
    :ivar faults: number of times that each kind of fault was provoked.
    :ivar members: all members, by database.
    :ivar restarts: how many restarts of the relay have begun or ended.
    """

    seed: int
    ports: tuple[Port, Port]
    ledger: Ledger
    pause: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    members: dict[str, list[Member]] = field(default_factory=dict)
    restarts: int = 0

    @contextmanager
    def restart(self) -> Iterator[None]:
        """While the relay restarts, what members do may fail."""
        self.restarts += 1
        try:
            yield
        finally:
            self.restarts += 1

    @property
    def is_restarting(self) -> bool:
        """Whether the relay restarts just now."""
        return self.restarts % 2 == 1


class Member:
    """A peer of one database, over all its connections.

    :ivar busy: locked during an action.
    :ivar link: its connection, once welcomed.
    """

    def __init__(self, scene: Scene, database: str, number: int, acebase: bool) -> None:
        self.random = random.Random(f"{scene.seed} {database} {number}")
        self.acebase = acebase
        self.database = database
        letters = string.digits + string.ascii_lowercase
        name = "".join(self.random.choices(letters, k=24)) if acebase else f"r-{database}-{number}"
        self.id = name if number else MASTER
        self.receiver: Receiver = scene.ledger.receiver(database, self.id)
        self.busy = asyncio.Lock()
        self.link: Link | None = None
        self.scene = scene
        self.ledger = scene.ledger
        self.port = scene.ports[number % 2]
        self.source = f"127.0.{self.random.randint(1, 250)}.{self.random.randint(1, 250)}"
        self.since = self.session_until = self.conflict_until = 0.0
        self._known: dict[str, str] = {}
        self._paths = self._serial = self._posts = 0
        self._unsettled: list[Sent] = []
        self._presences: WeakKeyDictionary[Link, Presence] = WeakKeyDictionary()
        self._downloads: set[asyncio.Task[None]] = set()

    # Connecting

    def target(self, what: str, **changes: str) -> str:
        """Path and query of a request, its parameters in the order of this peer's dialect."""
        pairs = {"id": self.id, "v": "1.0.0", "t": TOKEN} | changes
        if what != "connect":
            del pairs["v"]
        elif self.acebase:
            pairs = {"v": pairs.pop("v"), **pairs}
        return f"/{self.database}/{what}?" + "&".join(f"{k}={v}" for k, v in pairs.items())

    async def connect(self, since: float = 0, session_until: float = 0) -> Link:
        """Connect, and wait for the welcome.

        :param since: when the relay noticed the end of the last connection.
        :param session_until: until when the session lasts at least.
        :raises Surprise: if the relay refuses.
        """
        self.since, self.session_until = since, session_until
        link = await Link.open(self.port, self.target("connect"), self._receive, self.source)
        if link.status != 101:
            raise Surprise(f"the relay refused a handshake with {link.status}")
        await self.until("a welcome", lambda: self.link is link or not link.alive)
        return link

    def _welcomed(self, link: Link) -> None:
        now = monotonic()
        self.receiver.presences.append(
            Presence(self.since if now < self.session_until else now, now)
        )
        self.session_until = 0
        self._presences[link] = self.receiver.presences[-1]
        self.link = link
        self._known = {}
        self._paths += 1
        self._serial = 0
        self._unsettled.clear()

    async def resume(self) -> bool:
        """Connect again after the relay has restarted, in which nothing may be lost.

        :returns: whether it has come back in time for that.
        """
        last = self.receiver.presences[-1]
        since = last.until or last.welcomed  # the relay has closed its connection after that
        await self.connect(since, since + RESTARTED_TIMEOUT)
        is_resumed = self.receiver.presences[-1].since == since
        if not is_resumed:
            self.gone(since)
        assert self.link is not None
        await self._skip_pongs(self.link)
        return is_resumed

    async def _skip_pongs(self, link: Link) -> None:
        """Wait until all is received that has waited: answers to pings over the last link, too."""
        link.send(f"to:{self.id};{REST_HAS_COME}")
        await self.until("the rest", lambda: link.has_rest or not link.alive)
        link.pongs = 0

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until *holds* returns true.

        :param what: for the error.
        :raises Surprise: after :data:`TIMEOUT`.
        """
        end = monotonic() + TIMEOUT
        while not holds():
            if monotonic() > end:
                raise Surprise(f"timeout: {what}")
            await asyncio.sleep(0.02)

    async def noticed(self) -> float:
        """Wait until the relay has noticed the end of the connection; returns when that was."""
        for _ in range(200):
            status, body = await ask(self.port, "GET", self.target("clients"), source=self.source)
            if status != 200:
                raise Surprise(f"the list of clients was answered with {status}")
            if all(each["id"] != self.id for each in json.loads(body)):
                return monotonic()
            await asyncio.sleep(0.1)
        raise Surprise("the list of clients still has a connection that has ended")

    def gone(self, begin: float) -> None:
        """Record that this peer left, or may have left, between *begin* and now."""
        self.receiver.departures.append((begin, monotonic()))

    # Sending

    def body(self, mark: str, units: int) -> str:
        """A body with *mark*, of at most about *units* UTF-16 units."""
        content = self.random.choice(_CONTENTS)
        each = len(content.encode("utf-16-le")) // 2
        content *= max(0, units - len(mark) - 80) // each
        if self.acebase and self.random.random() < 0.9:
            return f'{{"type":"notification","from":"{self.id}","data":"{mark}{content}"}}'
        return f'{{"x":"{mark}{content}"}}' if self.random.random() < 0.5 else mark + content

    def addressee(self) -> str:
        """The id of a random member, or ``all``."""
        if self.random.random() < 0.5:
            return ALL
        return self.random.choice(self.scene.members[self.database]).id

    def send(self, addressee: str, units: int) -> None:
        """Send one message over the WebSocket."""
        assert self.link is not None
        self._serial += 1
        path = f"c{self._paths}"
        sent, mark = self.ledger.send(self.receiver, path, self._serial, addressee, monotonic())
        self._unsettled.append(sent)
        body = self.body(mark, units)
        explicit = addressee != ALL or self.random.random() < 0.2
        self.link.send(f"to:{addressee};{body}" if explicit else body)

    async def post(self, addressee: str, units: int) -> None:
        """POST one message."""
        self._posts += 1
        sent, mark = self.ledger.send(
            self.receiver,
            "post",
            self._posts,
            addressee,
            monotonic(),
            large=units > MAX_PAYLOAD // 2,
        )
        body = f"to:{addressee};{self.body(mark, units)}".encode()
        status, _ = await ask(self.port, "POST", self.target("send"), body, source=self.source)
        if status == 200:
            sent.settled = monotonic()
        elif self.link is not None and self.link.alive:
            raise Surprise(f"a POST was answered with {status}")

    async def confirm(self) -> bool:
        """Wait until the relay has processed all that was sent; returns whether it has."""
        link, presence, unsettled = self.link, self.receiver.presences[-1], self._unsettled
        if link is None or not link.alive:
            return False
        self._unsettled = []
        at = monotonic()
        if not await self._answered(link):
            return False
        presence.until = at
        for sent in unsettled:
            sent.settled = monotonic()
        return True

    async def _answered(self, link: Link) -> bool:
        """Send a ping; returns whether the relay answers it before the connection ends."""
        link.pings += 1
        number = link.pings
        link.send("ping")
        await self.until("a pong", lambda: link.pongs >= number or not link.alive)
        return link.pongs >= number

    # Receiving

    def _receive(self, link: Link, text: str) -> None:
        if text.startswith("welcome:"):
            self._welcomed(link)
        elif text == "pong":
            link.pongs += 1
        elif text == f"msg:{REST_HAS_COME}":
            link.has_rest = True
        elif text.startswith(("connect:", "disconnect:")):
            what, _, who = text.partition(":")
            self._notified(link, what, who)
        elif text.startswith("get:") and not self.acebase:
            self._begin_download(text[4:], link)
        elif text.startswith("msg:"):
            if self.acebase and text.startswith("msg:{"):
                self.ledger.record("wrong dialect", f"{self.id}: {text[:80]}")
            self._take(link, text[4:])
        elif self.acebase and text.startswith("{"):
            self._take(link, text)
        else:
            self.ledger.record("wrong dialect", f"{self.id}: {text[:80]}")

    def _take(self, link: Link, body: str) -> None:
        if body.startswith(('{"type":"hello"', '{"type":"bye"')):
            self._check_member(json.loads(body)["from"])
        else:
            # Data of the old connection may be read after data of the new one.
            ordered = link is self.link
            self.ledger.arrive(self.receiver, body, self.ledger.place(self.receiver), ordered)

    def _check_member(self, who: str) -> None:
        if all(each.id != who for each in self.scene.members[self.database]):
            self.ledger.record("wrong database", f"{self.database} {self.id} receives the id {who}")

    def _notified(self, link: Link, what: str, who: str) -> None:
        self._check_member(who)
        if link is self.link:
            if self._known.get(who) == what:
                self.ledger.record("duplicated", f"{self.database} {self.id}: {what} {who}")
            self._known[who] = what

    # Downloading

    def _begin_download(self, message: str, link: Link) -> None:
        # The old connection may announce it when the new one has already been welcomed.
        presence, place = self._presences[link], self.ledger.place(self.receiver)
        task = asyncio.ensure_future(self._download(message, place, presence, link))
        self._downloads.add(task)
        task.add_done_callback(self._downloads.discard)

    async def _download(self, message: str, place: int, presence: Presence, link: Link) -> None:
        begun = monotonic()
        target = self.target("receive", msg=message)
        try:
            if self.random.random() < 0.05:
                await self._download_elsewhere(message)
            if self.random.random() < 0.05:
                self.scene.faults["broken downloads"] += 1
                await ask(self.port, "GET", target, source=self.source, take=2000)
            status, body = await ask(self.port, "GET", target, source=self.source)
            if status == 200:
                self.ledger.arrive(self.receiver, body.decode(), place)
                if self.random.random() < 0.1:
                    again, repeated = await ask(self.port, "GET", target, source=self.source)
                    if again == 200 and repeated != body:
                        self.ledger.record("garbled", f"{self.id}: {message}, downloaded again")
            elif await self._answered(link) and not presence.broken:
                # The relay has not ended this connection, so the peer is still known.
                after = f"{status} after {monotonic() - begun:.1f} s"
                about = f"{self.database} {self.id}: the download of {message}: {after}"
                self.ledger.record("lost", about)
            else:
                presence.broken = True
        except (OSError, TimeoutError, Surprise):
            presence.broken = True

    async def _download_elsewhere(self, message: str) -> None:
        """Try to download it as a peer of another database, which has to fail."""
        self.scene.faults["foreign downloads"] += 1
        other = self.random.choice(
            [each for name, each in self.scene.members.items() if name != self.database]
        )[1]
        target = other.target("receive", msg=message)
        status, _ = await ask(self.port, "GET", target, source=self.source)
        if status not in (401, 404):
            self.ledger.record("wrong database", f"{other.id} may download {message}: {status}")

    async def rest(self) -> None:
        """Wait for the downloads under way."""
        if self._downloads:
            await asyncio.wait(tuple(self._downloads), timeout=TIMEOUT)
