"""A relay as a member of a cluster: keeps its lease, and finds the homes of databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.cluster.handshake import Ticket
from acebase_ipc.cluster.leases import Command, Member, Reply, Timing, Verb
from acebase_ipc.cluster.placement import About, choose_relay, parse_about
from acebase_ipc.cluster.redis import StoreDown
from acebase_ipc.cluster.store import StoreFailed
from acebase_ipc.relay.errors import Overloaded

PATIENCE: Final = 4.5
"""Seconds for which a request waits for a home of its database: a process of the npm package
acebase ends if its connection attempt is refused, or takes longer than 5 s."""

LEASES: Final = 2.5
"""The same as a multiple of the lease, if that is less."""

MAX_WAITING: Final = 10_000
"""Databases for whose home requests wait."""

SHUN: Final = 2.0
"""Seconds for which no database is placed at a relay that could not be reached."""

log = Logger()


class Store(Protocol):
    """Runs commands; see :class:`~acebase_ipc.cluster.redis.RedisStore`."""

    def run(self, command: Command) -> Deferred[Reply]:
        """Run a command; fires with the answer."""

    def close(self) -> None:
        """End the connection."""


class Surroundings(Protocol):
    """What a node tells the relay."""

    def suspend(self) -> None:
        """The lease is over: close all connections; the sessions may go on."""

    def claimed(self, database: str, journal: tuple[bytes, ...]) -> None:
        """This relay is the home of *database*, of which another one has left a *journal*."""

    def write_journals(self, databases: Iterable[str] | None) -> None:
        """The store may have lost the journals of *databases*, or of all: write them anew."""

    def adopt(self, database: str, state: bytes) -> None:
        """Go on with the *state* that another relay had of *database*, before it is served.

        :raises Exception: if that is not possible; then nothing of it is there.
        """

    def lost(self, databases: Iterable[str]) -> None:
        """Other relays serve *databases*, or may: close their connections, and forget them."""


class Place:
    """Where a request is to be processed.

    :ivar relay: the id of the relay; ``None`` for this one.
    :ivar address: where it is reached.
    :ivar epoch: at which it serves the database; 0 if it is to become its home.
    """

    __slots__ = ("address", "epoch", "relay")

    def __init__(self, relay: str | None = None, address: str = "", epoch: int = 0) -> None:
        self.relay = relay
        self.address = address
        self.epoch = epoch


HERE: Final = Place()


class Node:
    """One relay of a cluster.

    :param about: returns what to tell the other relays.
    :param clock: returns monotonic seconds.
    :ivar store_lag: the seconds that the store has taken for its last answer.
    """

    def __init__(
        self,
        timing: Timing,
        store: Store,
        make_id: Callable[[], str],
        about: Callable[[], About],
        surroundings: Surroundings,
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        self.timing = timing
        self.member = Member(timing, make_id, lambda: about().dump())
        self._about = about
        self._store = store
        self._surroundings = surroundings
        self._reactor = reactor
        self._clock = clock
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor
        self._is_serving = False
        self._has_store: bool | None = None
        self._unwritten: set[str] = set()
        self.store_lag: float | None = None
        self._sent: dict[Verb, int] = {}
        self._known: dict[str, tuple[str, int]] = {}
        self._searches: dict[str, list[Deferred[Place | None]]] = {}
        self._shunned: dict[str, float] = {}
        self._idle: set[str] = set()
        self._moving: set[str] = set()
        self._sealed: set[str] = set()
        self._arriving: dict[str, bytes] = {}

    @property
    def patience(self) -> float:
        """Seconds for which a request waits for a home of its database."""
        return min(PATIENCE, LEASES * self.timing.lease)

    def start(self) -> None:
        """Join the cluster."""
        self._ticking.start(self.timing.tick).addErrback(_log_failure)

    def stop(self) -> Deferred[object]:
        """Leave the cluster; its databases can be claimed as soon as this fires."""
        if not self._ticking.running:
            return succeed(None)
        self._ticking.stop()
        left = self._store.run(self.member.leave())
        self._is_serving = False

        def ended(result: object) -> None:
            self._store.close()

        return left.addErrback(lambda _: None).addBoth(ended)

    # The lease

    def may_admit(self, database: str) -> bool:
        """Return whether a request for *database* can be answered here at once."""
        return database not in self._moving and self.may_serve(database)

    def may_serve(self, database: str) -> bool:
        """Return whether this relay is the home of *database* at this moment.

        Notices, too, that the lease is over.
        """
        now = self._clock()
        if now >= self.member.trusted_until:
            self._check_lease(now)
            return False
        return database in self.member.homes and database not in self._sealed

    def _check_lease(self, now: float) -> None:
        is_trusted = self.member.is_trusted(now)
        if is_trusted == self._is_serving:
            return
        self._is_serving = is_trusted
        if is_trusted:
            log.info("a member of the cluster, as {relay}", relay=self.member.id)
            return
        log.error(
            "the lease is over: {databases} database(s) are not served until Redis answers",
            databases=len(self.member.homes),
        )
        self._surroundings.suspend()

    def _lose(self, databases: set[str]) -> None:
        if databases:
            log.warn(
                "other relays may serve {databases} database(s) of this one: they are forgotten",
                databases=len(databases),
            )
            self._surroundings.lost(databases)

    def _tick(self) -> None:
        try:
            self._keep_lease()
        except Exception:  # the next tick follows even so
            log.failure("keeping the lease failed")

    def _keep_lease(self) -> None:
        now = self._clock()
        self._check_lease(now)
        self._lose(self.member.lapsed(now))
        for command in self.member.due(now):
            # What is not answered yet is not asked once more.
            if not self._sent.get(command.verb) or command.verb is Verb.BURY:
                self.run(command).addErrback(lambda _: None)

    def run(self, command: Command) -> Deferred[Reply]:
        """Run a command in the store; fails with :exc:`StoreFailed`."""
        sent_at = self._clock()
        verb = command.verb
        self._sent[verb] = self._sent.get(verb, 0) + 1

        def answered(reply: Reply) -> Reply:
            self._sent[verb] -= 1
            self.store_lag = self._clock() - sent_at
            self._note_store(None)
            before = self.member.homes.get(str(command.arguments[0])) if command.arguments else None
            lost = self.member.replied(command, sent_at, reply, self._clock())
            self._lose(lost)
            self._note_journal(command, reply, before)
            self._check_lease(self._clock())
            return reply

        def failed(failure: Failure) -> Failure:
            self._sent[verb] -= 1
            if failure.check(StoreDown):
                assert isinstance(failure.value, StoreDown)
                self.member.store_is_down(failure.value.sent_at, self._clock())
            if failure.check(StoreFailed):
                self._note_store(str(failure.value))
            return failure

        return self._store.run(command).addCallbacks(answered, failed)

    def _note_journal(self, command: Command, reply: Reply, before: int | None) -> None:
        """Go on with a journal that has come with a claim, or write the own ones anew."""
        if command.verb is Verb.JOIN and self.member.homes:
            self._surroundings.write_journals(None)
        if command.verb is Verb.CLAIM and reply.home is not None:
            database = str(command.arguments[0])
            if self.member.homes.get(database) == reply.home.epoch and before is None:
                self._surroundings.claimed(database, reply.journal)

    def note(self, database: str, records: list[bytes], anew: bool) -> None:
        """Send records for the journal of a database."""
        command = self.member.note(database, records, anew)
        if command is not None:
            noted = self.run(command)
            noted.addErrback(lambda _: self._unwritten.add(database))

    def _note_store(self, reason: str | None) -> None:
        has_store = reason is None
        if has_store == self._has_store:
            return
        if reason is not None:
            log.error("no answer of the cluster's store: {reason}", reason=reason)
        elif self._has_store is not None:
            log.info("the cluster's store answers again")
        self._has_store = has_store

    @property
    def has_store(self) -> bool:
        """Whether the store has answered the last command."""
        return bool(self._has_store)

    def tick(self, used: Callable[[str], bool]) -> set[str]:
        """Give up databases that nobody has used for a while; to be called once a second.

        :param used: returns whether the relay knows anything of a database.
        :returns: the databases that were given up.
        """
        if self._unwritten and self._has_store:
            unwritten, self._unwritten = self._unwritten, set()
            self._surroundings.write_journals(unwritten)
        unused = {each for each in self.member.homes if not used(each)}
        given_up = unused & self._idle
        for database in given_up:
            command = self.member.release(database)
            if command is not None:
                self.run(command).addErrback(lambda _: None)
        self._idle = unused - self._idle
        return given_up

    # Homes

    @property
    def relays(self) -> dict[str, About]:
        """The relays that the store knows, by id."""
        known = ((relay, parse_about(each.about)) for relay, each in self.member.records.items())
        return {relay: about for relay, about in known if about is not None}

    def shun(self, relay: str | None, database: str, was_reached: bool) -> None:
        """Note that *relay* does not serve *database*, which was expected there.

        :param was_reached: whether it has said so; otherwise it could not be reached.
        """
        self._known.pop(database, None)
        if relay is not None and not was_reached:
            self._shunned[relay] = self._clock() + SHUN

    def find(self, database: str, claims: bool) -> Deferred[Place | None]:
        """Find the home of *database*; ``None`` if it has none.

        :param claims: whether a home is found for a database that has none. It may take some time
            until that is possible.

        Fails with :exc:`Overloaded`.
        """
        place = self._look(database, claims)
        if place is not None:
            return succeed(place)
        if not self._ticking.running:
            return fail(Overloaded("The relay is leaving its cluster"))
        found: Deferred[Place | None] = Deferred()
        key = f"{'c' if claims else 'f'}{database}"
        searches = self._searches.get(key)
        if searches is not None:
            searches.append(found)
        elif len(self._searches) >= MAX_WAITING:
            return fail(Overloaded("Too many databases have no home yet"))
        else:
            self._searches[key] = [found]
            search = Deferred.fromCoroutine(self._search(database, claims))
            search.addBoth(self._end_search, key)
        return found

    def _end_search(self, result: Any, key: str) -> None:
        for each in self._searches.pop(key):
            each.callback(result)

    def _look(self, database: str, claims: bool) -> Place | None:
        """Return the home of *database* if that is known already."""
        if database in self._moving:
            return None
        if self.may_serve(database):
            return HERE
        known = self._known.get(database)
        record = None if known is None else self.member.records.get(known[0])
        about = None if record is None else parse_about(record.about)
        if known is None or about is None or known[0] == self.member.id:
            self._known.pop(database, None)
            return None
        return Place(known[0], about.address, known[1])

    async def _search(self, database: str, claims: bool) -> Place | None:
        deadline = self._clock() + self.patience
        reason = ""
        while True:
            try:
                is_moving = database in self._moving or database in self._arriving
                place = None if is_moving else await self._ask(database, claims)
            except StoreFailed:
                reason = "the cluster's store does not answer"
            else:
                if place is not None:
                    return place
                if not (claims or is_moving):
                    return None
                reason = "the database has no home yet"
            if self._clock() >= deadline or not self._ticking.running:
                raise Overloaded(f"No relay serves this database now: {reason}")
            await deferLater(self._reactor, self.timing.tick)

    async def _ask(self, database: str, claims: bool) -> Place | None:
        reply = await self.run(self.member.find(database))
        if reply.home is None and claims:
            chosen = choose_relay(database, self._choice())
            if chosen is not None and chosen != self.member.id:
                return Place(chosen, self.relays[chosen].address)
            reply = await self.run(self.member.claim(database))
        if reply.home is None:
            return None
        if reply.home.relay == self.member.id:
            if not claims or self.may_serve(database):
                return HERE
            await self.run(self.member.claim(database))  # it was given away, or the answer was lost
            return HERE if self.may_serve(database) else None
        about = self.relays.get(reply.home.relay)
        if about is None:
            return None
        if len(self._known) >= MAX_WAITING:
            self._known.clear()
        self._known[database] = reply.home.relay, reply.home.epoch
        return Place(reply.home.relay, about.address, reply.home.epoch)

    def _choice(self) -> dict[str, About]:
        """Return the relays that can become a home."""
        now = self._clock()
        self._shunned = {relay: until for relay, until in self._shunned.items() if until > now}
        relays = {key: each for key, each in self.relays.items() if key not in self._shunned}
        relays[self.member.id] = self._about()
        return relays

    async def decide(self, ticket: Ticket) -> bool:
        """Return whether a client of another relay, with this ticket, is served here."""
        database, now = ticket.database, self._clock()
        if database in self._moving or database in self._arriving or not self._ticking.running:
            return False
        if self.member.heard_of(ticket.epoch, database):
            self._lose({database})
        own = self.member.epoch(database, now)
        if own is None and ticket.epoch == 0 and not self._about().is_draining:
            try:
                await self.run(self.member.claim(database))
            except StoreFailed:
                return False
            return self.may_serve(database)
        if own is None and ticket.epoch:
            await self._recover(database)
            own = self.member.epoch(database, self._clock())
        return own is not None and (ticket.epoch in (0, own))

    # Moving

    def hold(self, databases: Iterable[str]) -> None:
        """Let new requests for *databases* wait until :meth:`release`."""
        self._moving.update(databases)

    def seal(self, databases: Iterable[str]) -> None:
        """Accept nothing for *databases*, whose state is known, until :meth:`release`."""
        self._sealed.update(databases)

    def release(self, databases: Iterable[str]) -> None:
        """Let requests for *databases* go on, here or where they are served now."""
        self._moving.difference_update(databases)
        self._sealed.difference_update(databases)

    def choose(self, database: str) -> Place | None:
        """Return the relay that *database* is to move to; ``None`` if there is none."""
        relays = {key: each for key, each in self._choice().items() if key != self.member.id}
        chosen = choose_relay(database, relays)
        return None if chosen is None else Place(chosen, relays[chosen].address)

    async def give(self, database: str, relay: str) -> None:
        """Give *database* to another relay; whether that has succeeded, that relay finds out.

        This one does not serve it any more.
        """
        command = self.member.give(database, relay)
        if command is not None:
            try:
                await self.run(command)
            except StoreFailed as error:
                log.warn(
                    "it is not known whether {database} was given away: {reason}",
                    database=database,
                    reason=str(error),
                )

    async def take_back(self, database: str) -> bool:
        """Be the home of *database* again, after :meth:`give`; returns whether it is.

        The relay that it was given to may have ended: then that is possible within a lease.
        """
        return await self._become_home(database, is_awaiting_burial=True)

    async def _become_home(self, database: str, is_awaiting_burial: bool) -> bool:
        """Claim *database* until that has succeeded, for the time of a lease.

        Somebody else may have served it if this relay was buried meanwhile.

        :param is_awaiting_burial: whether to try again while another relay is the home.
        """
        relay, end = self.member.id, self._clock() + self.timing.lease
        while True:
            home = None
            with suppress(StoreFailed):
                home = (await self.run(self.member.claim(database))).home
            if self.member.epoch(database, self._clock()) is not None:
                return True
            is_elsewhere = home is not None and home.relay != relay and not is_awaiting_burial
            if self.member.id != relay or is_elsewhere or self._clock() >= end:
                return False
            await deferLater(self._reactor, self.timing.tick)

    def arrived(self, database: str, state: bytes) -> bool:
        """Note the state of a database that is about to be given to this relay.

        Returns whether it is taken.
        """
        if self.may_serve(database) or not self._is_serving or self._about().is_draining:
            return False
        self._arriving[database] = state
        return True

    async def given(self, database: str) -> bool:
        """Serve a database whose state has arrived; returns whether this relay does."""
        try:
            is_home = await self._become_home(database, is_awaiting_burial=False)
        finally:
            state = self._arriving.pop(database, None)
        if is_home and state is not None:
            try:
                self._surroundings.adopt(database, state)
            except Exception:
                log.failure("the state of a database cannot be used")
        return is_home

    def not_given(self, database: str) -> None:
        """Forget the state of a database: the other relay has it still, or has ended."""
        self._arriving.pop(database, None)

    async def _recover(self, database: str) -> None:
        """Be the home that the store takes this relay for, although it does not know that."""
        try:
            reply = await self.run(self.member.find(database))
            if reply.home is not None and reply.home.relay == self.member.id:
                await self.run(self.member.claim(database))
        except StoreFailed:
            pass


def _log_failure(failure: Failure) -> None:
    log.failure("keeping the lease failed", failure)
