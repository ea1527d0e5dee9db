"""One peer of the soak: how it connects, what it sends, and what it hears."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from weakref import WeakKeyDictionary

from tests.soak.ledger import EVERYBODY, Ear, Ledger, Sent, Stay
from tests.soak.link import TIMEOUT, Door, Link, ask

TOKEN = "soak+token=="
MAX_PAYLOAD = 16 * 1024
"""UTF-16 units: both dialects POST above it, over TLS, too."""

LARGEST = 300_000
"""Characters of a large message."""

RECOVERY = 6.0
KEEPALIVE = 8.0
"""Seconds until a peer that answers nothing is cut."""

MASTER = "[master]"

_CONTENTS = ("x", "é", "語", "😀", string.ascii_letters)


class Surprise(Exception):
    """The relay has answered what the protocol does not allow."""


@dataclass(slots=True)
class Party:
    """What all members share.

    :ivar doors: the relay's ports, without and with TLS.
    :ivar pause: seconds for which this process has lately stood still, at most.
    :ivar members: all members by database.
    """

    seed: int
    doors: tuple[Door, Door]
    ledger: Ledger
    pause: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    members: dict[str, list[Member]] = field(default_factory=dict)


class Member:
    """A peer of one database, over all its connections.

    :ivar busy: held while it does something.
    :ivar link: its connection, if that has been welcomed.
    """

    def __init__(self, party: Party, database: str, number: int, acebase: bool) -> None:
        self.random = random.Random(f"{party.seed} {database} {number}")
        self.acebase = acebase
        self.database = database
        letters = string.digits + string.ascii_lowercase
        name = "".join(self.random.choices(letters, k=24)) if acebase else f"r-{database}-{number}"
        self.id = name if number else MASTER
        self.ear: Ear = party.ledger.ear(database, self.id)
        self.busy = asyncio.Lock()
        self.link: Link | None = None
        self.party = party
        self.ledger = party.ledger
        self.door = party.doors[number % 2]
        self.source = f"127.0.{self.random.randint(1, 250)}.{self.random.randint(1, 250)}"
        self.since = self.seat_until = self.contested_until = 0.0
        self._known: dict[str, str] = {}
        self._paths = self._serial = self._posts = 0
        self._unsettled: list[Sent] = []
        self._stays: WeakKeyDictionary[Link, Stay] = WeakKeyDictionary()
        self._downloads: set[asyncio.Task[None]] = set()

    # Connecting

    def target(self, what: str, **changes: str) -> str:
        """A path and query of the relay's, in the order of this peer's dialect."""
        pairs = {"id": self.id, "v": "1.0.0", "t": TOKEN} | changes
        if what != "connect":
            del pairs["v"]
        elif self.acebase:
            pairs = {"v": pairs.pop("v"), **pairs}
        return f"/{self.database}/{what}?" + "&".join(f"{k}={v}" for k, v in pairs.items())

    async def connect(self, since: float = 0, seat_until: float = 0) -> Link:
        """Become a peer.

        :param since: when the relay knew that the last connection was gone.
        :param seat_until: for how long it has kept the seat, at least.
        :raises Surprise: if that is refused.
        """
        self.since, self.seat_until = since, seat_until
        link = await Link.open(self.door, self.target("connect"), self._heard, self.source)
        if link.status != 101:
            raise Surprise(f"a handshake is refused with {link.status}")
        await self.until("a welcome", lambda: self.link is link or not link.alive)
        return link

    def _welcomed(self, link: Link) -> None:
        now = monotonic()
        self.ear.stays.append(Stay(self.since if now < self.seat_until else now, now))
        self.seat_until = 0
        self._stays[link] = self.ear.stays[-1]
        self.link = link
        self._known = {}
        self._paths += 1
        self._serial = 0
        self._unsettled.clear()

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something *holds*.

        :raises Surprise: if that takes too long.
        """
        end = monotonic() + TIMEOUT
        while not holds():
            if monotonic() > end:
                raise Surprise(f"{what} has not come")
            await asyncio.sleep(0.02)

    async def noticed(self) -> float:
        """Wait until the relay knows that this peer has no connection; returns when that was."""
        for _ in range(200):
            status, body = await ask(self.door, "GET", self.target("clients"), source=self.source)
            if status != 200:
                raise Surprise(f"clients are answered with {status}")
            if all(each["id"] != self.id for each in json.loads(body)):
                return monotonic()
            await asyncio.sleep(0.1)
        raise Surprise("a connection that has ended is still listed")

    def gone(self, begin: float) -> None:
        """This peer left, or may have, between *begin* and now."""
        self.ear.departures.append((begin, monotonic()))

    # Sending

    def body(self, mark: str, units: int) -> str:
        """A body with a *mark*, of at most about *units* UTF-16 units."""
        content = self.random.choice(_CONTENTS)
        each = len(content.encode("utf-16-le")) // 2
        content *= max(0, units - len(mark) - 80) // each
        if self.acebase and self.random.random() < 0.9:
            return f'{{"type":"notification","from":"{self.id}","data":"{mark}{content}"}}'
        return f'{{"x":"{mark}{content}"}}' if self.random.random() < 0.5 else mark + content

    def addressee(self) -> str:
        """Somebody, or everybody."""
        if self.random.random() < 0.5:
            return EVERYBODY
        return self.random.choice(self.party.members[self.database]).id

    def say(self, addressee: str, units: int) -> None:
        """Send one message over the WebSocket."""
        assert self.link is not None
        self._serial += 1
        path = f"c{self._paths}"
        sent, mark = self.ledger.send(self.ear, path, self._serial, addressee, monotonic())
        self._unsettled.append(sent)
        body = self.body(mark, units)
        explicit = addressee != EVERYBODY or self.random.random() < 0.2
        self.link.say(f"to:{addressee};{body}" if explicit else body)

    async def post(self, addressee: str, units: int) -> None:
        """POST one message."""
        self._posts += 1
        sent, mark = self.ledger.send(
            self.ear, "post", self._posts, addressee, monotonic(), large=units > MAX_PAYLOAD // 2
        )
        body = f"to:{addressee};{self.body(mark, units)}".encode()
        status, _ = await ask(self.door, "POST", self.target("send"), body, source=self.source)
        if status == 200:
            sent.settled = monotonic()
        elif self.link is not None and self.link.alive:
            raise Surprise(f"a POST is answered with {status}")

    async def confirm(self) -> bool:
        """Wait until the relay has dealt with all that was sent; whether it has."""
        link, stay, unsettled = self.link, self.ear.stays[-1], self._unsettled
        if link is None or not link.alive:
            return False
        self._unsettled = []
        at = monotonic()
        if not await self._answered(link):
            return False
        stay.until = at
        for sent in unsettled:
            sent.settled = monotonic()
        return True

    async def _answered(self, link: Link) -> bool:
        """Whether the relay answers a ping that is sent now."""
        link.pings += 1
        number = link.pings
        link.say("ping")
        await self.until("a pong", lambda: link.pongs >= number or not link.alive)
        return link.pongs >= number

    # Hearing

    def _heard(self, link: Link, text: str) -> None:
        if text.startswith("welcome:"):
            self._welcomed(link)
        elif text == "pong":
            link.pongs += 1
        elif text.startswith(("connect:", "disconnect:")):
            what, _, who = text.partition(":")
            self._told(link, what, who)
        elif text.startswith("get:") and not self.acebase:
            self._begin_download(text[4:], link)
        elif text.startswith("msg:"):
            if self.acebase and text.startswith("msg:{"):
                self.ledger.blame("wrong dialect", f"{self.id}: {text[:80]}")
            self._take(link, text[4:])
        elif self.acebase and text.startswith("{"):
            self._take(link, text)
        else:
            self.ledger.blame("wrong dialect", f"{self.id}: {text[:80]}")

    def _take(self, link: Link, body: str) -> None:
        if body.startswith(('{"type":"hello"', '{"type":"bye"')):
            self._check_rival(json.loads(body)["from"])
        else:
            # What an old connection still had may be read after what the new one brings.
            ordered = link is self.link
            self.ledger.arrive(self.ear, body, self.ledger.place(self.ear), ordered)

    def _check_rival(self, who: str) -> None:
        if all(each.id != who for each in self.party.members[self.database]):
            self.ledger.blame("wrong database", f"{self.database} {self.id} hears of {who}")

    def _told(self, link: Link, what: str, who: str) -> None:
        self._check_rival(who)
        if link is self.link:
            if self._known.get(who) == what:
                self.ledger.blame("duplicated", f"{self.database} {self.id}: {what} {who}")
            self._known[who] = what

    # Downloading

    def _begin_download(self, message: str, link: Link) -> None:
        # An old connection may still tell of it when the new one is welcomed already.
        stay, place = self._stays[link], self.ledger.place(self.ear)
        task = asyncio.ensure_future(self._download(message, place, stay, link))
        self._downloads.add(task)
        task.add_done_callback(self._downloads.discard)

    async def _download(self, message: str, place: int, stay: Stay, link: Link) -> None:
        begun = monotonic()
        target = self.target("receive", msg=message)
        try:
            if self.random.random() < 0.05:
                await self._try_elsewhere(message)
            if self.random.random() < 0.05:
                self.party.faults["broken downloads"] += 1
                stay.broken = True  # all of it may have left the relay
                await ask(self.door, "GET", target, source=self.source, take=2000)
            status, body = await ask(self.door, "GET", target, source=self.source)
            if status == 200:
                self.ledger.arrive(self.ear, body.decode(), place)
                if self.random.random() < 0.1:
                    again, _ = await ask(self.door, "GET", target, source=self.source)
                    if again == 200:
                        self.ledger.blame("duplicated", f"{self.id} downloads {message} twice")
            elif await self._answered(link) and not stay.broken:
                # The relay has not ended this connection, and so not forgotten the peer.
                after = f"{status} after {monotonic() - begun:.1f} s"
                about = f"{self.database} {self.id}: the download of {message}: {after}"
                self.ledger.blame("lost", about)
            else:
                stay.broken = True
        except (OSError, TimeoutError, Surprise):
            stay.broken = True

    async def _try_elsewhere(self, message: str) -> None:
        """Nobody of another database may have it."""
        self.party.faults["foreign downloads"] += 1
        other = self.random.choice(
            [each for name, each in self.party.members.items() if name != self.database]
        )[1]
        target = other.target("receive", msg=message)
        status, _ = await ask(self.door, "GET", target, source=self.source)
        if status not in (401, 404):
            self.ledger.blame("wrong database", f"{other.id} may download {message}: {status}")

    async def rest(self) -> None:
        """Wait for the downloads that have begun."""
        if self._downloads:
            await asyncio.wait(tuple(self._downloads), timeout=TIMEOUT)
