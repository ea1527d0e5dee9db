"""What members do: talk mostly, and now and then make trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from tests.soak.ledger import EVERYBODY, GHOST
from tests.soak.link import BINARY, TIMEOUT, Link, ask, frame, half_ask
from tests.soak.member import (
    KEEPALIVE,
    LARGEST,
    MASTER,
    MAX_PAYLOAD,
    RECOVERY,
    Member,
    Surprise,
)

PAUSE = 0.7
"""Seconds, on average, between two things that a member does."""

ENOUGH = 12_000_000
"""Bytes sent to somebody who does not read: more than the sockets and the backlog take."""

CONTEST = 70.0
"""Seconds after which an id is certainly contested no more."""

PROBE = 1.9
"""Seconds in which a living process can be sure to have answered a close or a ping in time."""

ARRIVAL = 5.0
"""Seconds in which all members come."""

LONG_PAUSE = 2.0
"""Seconds of standing still after which the relay may rightly have cut us."""

MARGIN = 2.0
"""Seconds by which a member is back before its seat ends."""


async def talk(member: Member) -> None:
    """Send a few messages."""
    for _ in range(member.random.randint(1, 6)):
        units = int(100 * member.random.paretovariate(1.0))
        member.say(member.addressee(), min(units, MAX_PAYLOAD - 200))
    await member.confirm()


async def post(member: Member) -> None:
    """POST a message, large or not."""
    most = LARGEST if member.random.random() < 0.7 else 1000
    await member.post(member.addressee(), member.random.randint(100, most))
    await member.confirm()


async def cut(member: Member) -> None:
    """Lose the connection, sometimes amid messages, and come back: soon, or too late."""
    link = member.link
    assert link is not None
    if member.random.random() < 0.3:
        member.say(EVERYBODY, 200)
        link.write(frame(f"{GHOST} {'x' * 200}".encode())[:-50])
    begun = monotonic()
    link.cut()
    if member.random.random() < 0.3:
        await _reconnect(member, begun)
        return
    since = await member.noticed()
    if member.random.random() < 0.2:
        await asyncio.sleep(RECOVERY + MARGIN)
        await member.connect()
        member.gone(begun)
        member.party.faults["too late returns"] += 1
        return
    await asyncio.sleep(member.random.uniform(0, RECOVERY - 2 * MARGIN))
    if not member.acebase:
        await _reconnect(member, begun)
        return
    await member.connect(since, begun + RECOVERY)
    if member.ear.stays[-1].since == since:
        member.party.faults["returns"] += 1
    else:
        member.gone(begun)


async def _reconnect(member: Member, begun: float) -> None:
    await member.connect()
    if not member.acebase or monotonic() > begun + RECOVERY - MARGIN:
        member.gone(begun)


async def leave(member: Member) -> None:
    """Leave in good order, and join again."""
    assert member.link is not None
    begun = monotonic()
    if member.acebase:
        member.link.say(f'{{"type":"bye","from":"{member.id}"}}')
    await member.link.leave(member.random.choice([1000, 1001]))
    await asyncio.sleep(member.random.uniform(0, 1))
    await member.connect()
    member.gone(begun)


async def replace(member: Member) -> None:
    """Connect once more while the old connection looks alive, but is dead."""
    old = member.link
    assert old is not None
    begun = monotonic()
    old.answers = False
    await _reconnect(member, begun)
    old.cut()


async def contest(member: Member) -> None:
    """Connect once more while the old connection lives: an AceBase id is then contested."""
    old = member.link
    assert old is not None
    begun = monotonic()
    if begun < member.contested_until:
        return
    await member.connect()
    member.contested_until = monotonic() + CONTEST
    if not member.acebase:
        member.gone(begun)
    await member.until("the end of the replaced", lambda: not old.alive)
    quick = monotonic() - begun < PROBE
    # Who has not answered the close in time, behind all that it had to read, is cut.
    if old.close_code != 4001 and (quick or old.close_code is not None):
        raise Surprise(f"a replaced connection is closed with {old.close_code}")
    asked = monotonic()
    third = await Link.open(member.door, member.target("connect"), ignore, member.source)
    third.cut()
    # Over TLS the relay may not have seen the old one's end yet; and on a busy machine our
    # close or our pong may be late.
    quick = quick and member.door.tls is None and monotonic() - asked < PROBE
    if third.status != 409 and quick and member.acebase:
        raise Surprise(f"a contested id is given away: {third.status}")
    if third.status == 101:
        await _settle(member, begun)


async def slow(member: Member) -> None:
    """Read nothing for a while, while somebody sends a lot."""
    link = member.link
    assert link is not None
    link.stop_reading()
    others = [
        each
        for each in member.party.members[member.database]
        if each is not member and each.link and each.link.alive and not each.busy.locked()
    ]
    if others and member.random.random() < 0.3:
        await flood(member.random.choice(others), member.id, member.random.randint(1, ENOUGH))
        member.party.faults["floods"] += 1
    else:
        await asyncio.sleep(member.random.uniform(0.2, KEEPALIVE / 3))
    link.read_on()
    await member.confirm()


async def flood(member: Member, addressee: str, size: int) -> None:
    """Send *size* bytes to somebody."""
    async with member.busy:
        each = MAX_PAYLOAD - 200
        for _ in range(size // each):
            if not (member.link and member.link.alive):
                return
            member.say(addressee, each)
            await asyncio.sleep(0)
        await member.confirm()


async def freeze(member: Member) -> None:
    """Do nothing at all, as a process does after SIGSTOP, until the relay cuts; then wake up."""
    link = member.link
    assert link is not None
    begun = monotonic()
    link.answers = False
    link.stop_reading()
    await asyncio.sleep(member.random.uniform(KEEPALIVE, KEEPALIVE + RECOVERY))
    await member.noticed()
    link.read_on()
    await member.until("the end of the frozen connection", lambda: not link.alive)
    await member.connect()
    member.gone(begun)


async def wrong_token(member: Member) -> None:
    """Present a token that is wrong."""
    link = await Link.open(member.door, member.target("connect", t="wrong"), ignore, member.source)
    link.cut()
    answers = [("connect", link.status, {403})]
    for method, what, expected in (
        ("POST", "send", {401}),
        ("GET", "clients", {401, 403}),
        ("GET", "receive", {401}),
    ):
        target, body = member.target(what, t="wrong"), GHOST.encode() * (method == "POST")
        status, _ = await ask(member.door, method, target, body, source=member.source)
        answers.append((what, status, expected))
    for what, status, expected in answers:
        if status not in expected:
            raise Surprise(f"{what} with a wrong token is answered with {status}")


async def half_request(member: Member) -> None:
    """Begin a request and never end it."""
    target = member.target("send")
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n"
    whole = head.encode() + GHOST.encode() * 500
    wait = member.random.choice([0.1, 1.0, 15.0])
    size = member.random.choice([0, 1, 20, len(head) - 1, len(head), len(whole)])
    task = half_ask(member.door, whole[:size], source=member.source, wait=wait)
    await task


async def violate(member: Member) -> None:
    """Break a rule: the connection is closed with the code that says which."""
    link = member.link
    assert link is not None
    data, code = member.random.choice(
        [
            (frame(b"to:nobody"), 1008),
            (frame(b"to:;" + GHOST.encode()), 1008),
            (frame(b"x" * (MAX_PAYLOAD + 1)), 1009),
            (frame(b"\xc3\x28"), 1007),
            (frame(b"", 3), 1002),
        ]
    )
    begun = monotonic()
    link.write(data)
    await member.until("a close", lambda: not link.alive)
    if link.close_code is None:
        raise ConnectionResetError("a connection ended without a close frame")
    if link.close_code != code:
        raise Surprise(f"{data[:20]!r} is answered with {link.close_code}, not {code}")
    await _reconnect(member, begun)


async def nonsense(member: Member) -> None:
    """Send what is not relayed."""
    assert member.link is not None
    member.link.write(frame(GHOST.encode(), BINARY))
    member.link.say(f"to:nobody-is-called-so;{GHOST}")
    if member.acebase:
        member.link.say(f'{{"type":"bye","from":"{GHOST}"}}')
    await member.confirm()


def ignore(link: Link, text: str) -> None:
    """Hear nothing."""


async def _settle(member: Member, begun: float) -> None:
    """Become a peer again after having been replaced by a connection that is gone."""
    link = member.link
    if link is not None:
        await member.until("the end of the replaced", lambda: not link.alive)
    await member.connect()
    member.gone(begun)


ACTIONS: dict[Callable[[Member], Awaitable[None]], float] = {
    talk: 80,
    post: 4,
    cut: 3,
    leave: 1,
    replace: 1,
    contest: 0.3,
    slow: 1,
    freeze: 0.3,
    wrong_token: 0.5,
    half_request: 1,
    violate: 0.7,
    nonsense: 1,
}
"""What a member does, and how often."""


async def live(member: Member, end: float) -> None:
    """Be a member until *end*, on the monotonic clock."""
    faults, ledger = member.party.faults, member.ledger
    await asyncio.sleep(member.random.uniform(0, ARRIVAL))
    while monotonic() < end:
        async with member.busy:
            action: Callable[[Member], Awaitable[None]] = talk
            try:
                if member.link is None or not member.link.alive:
                    faults["connections that the relay has cut"] += member.link is not None
                    begun = monotonic()
                    await _return(member)
                    member.gone(begun - TIMEOUT)
                (action,) = member.random.choices(list(ACTIONS), list(ACTIONS.values()))
                faults[action.__name__] += action not in (talk, post)
                await action(member)
            except Surprise as surprise:
                ledger.blame("surprises", f"{member.id} {action.__name__}: {surprise}")
            except (OSError, TimeoutError) as error:
                if member.party.pause > LONG_PAUSE:
                    faults["connections lost on a machine that stood still"] += 1
                else:
                    ledger.blame("surprises", f"{member.id} {action.__name__}: {error!r}")
        await asyncio.sleep(member.random.expovariate(1 / PAUSE))


async def _return(member: Member) -> None:
    """Connect after the relay has cut the connection.

    What has waited for a master may be more than ``max_backlog`` here. While it is sent, one
    message more cuts the master again, with the answer to its handshake.
    """
    for _ in range(3 if member.id == MASTER else 0):
        try:
            await member.connect()
        except ConnectionResetError:
            member.party.faults["masters cut once more"] += 1
        else:
            return
    await member.connect()


async def part(member: Member) -> None:
    """Be sure to have all that was sent, and leave."""
    if member.link is not None and member.link.alive:
        await member.confirm()
        await member.rest()
        await member.link.leave()
    member.link = None
