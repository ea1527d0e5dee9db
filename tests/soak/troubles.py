"""The actions of members: mostly sending, now and then a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from tests.soak.ledger import ALL, UNDELIVERABLE
from tests.soak.link import BINARY, TIMEOUT, Link, ask, ask_in_part, frame
from tests.soak.member import (
    KEEPALIVE,
    LARGEST,
    MASTER,
    MAX_PAYLOAD,
    SESSION_TIMEOUT,
    Member,
    Surprise,
)

PAUSE = 0.7
"""Seconds between two actions of a member, on average."""

ENOUGH = 12_000_000
"""Bytes sent to a member that does not read: more than the sockets and the backlog hold."""

CONFLICT = 70.0
"""Seconds after which an id conflict has certainly ended."""

PROBE = 1.9
"""Seconds within which an answer to a close or a ping is certainly in time."""

ARRIVAL = 5.0
"""Seconds within which all members join."""

RESTART = 1012
"""The code with which a relay closes that restarts."""

LONG_PAUSE = 2.0
"""Seconds of a standstill after which the relay may have disconnected us."""

MARGIN = 2.0
"""Seconds before its session expires by which a member has resumed it."""


async def send_some(member: Member) -> None:
    """Send up to six messages."""
    for _ in range(member.random.randint(1, 6)):
        units = int(100 * member.random.paretovariate(1.0))
        member.send(member.addressee(), min(units, MAX_PAYLOAD - 200))
    await member.confirm()


async def post(member: Member) -> None:
    """POST a message, mostly a large one."""
    most = LARGEST if member.random.random() < 0.7 else 1000
    await member.post(member.addressee(), member.random.randint(100, most))
    await member.confirm()


async def cut(member: Member) -> None:
    """Lose the connection, sometimes within a message, and reconnect in time or too late."""
    link = member.link
    assert link is not None
    if member.random.random() < 0.3:
        member.send(ALL, 200)
        link.write(frame(f"{UNDELIVERABLE} {'x' * 200}".encode())[:-50])
    begun = monotonic()
    link.cut()
    if member.random.random() < 0.3:
        await _reconnect(member, begun)
        return
    since = await member.noticed()
    if member.random.random() < 0.2:
        await asyncio.sleep(SESSION_TIMEOUT + MARGIN)
        await member.connect()
        member.gone(begun)
        member.scene.faults["late returns"] += 1
        return
    await asyncio.sleep(member.random.uniform(0, SESSION_TIMEOUT - 2 * MARGIN))
    if not member.acebase:
        await _reconnect(member, begun)
        return
    await member.connect(since, begun + SESSION_TIMEOUT)
    if member.receiver.presences[-1].since == since:
        member.scene.faults["resumed sessions"] += 1
    else:
        member.gone(begun)


async def _reconnect(member: Member, begun: float) -> None:
    await member.connect()
    if not member.acebase or monotonic() > begun + SESSION_TIMEOUT - MARGIN:
        member.gone(begun)


async def leave(member: Member) -> None:
    """Close the connection with a handshake, and join again."""
    assert member.link is not None
    begun = monotonic()
    if member.acebase:
        member.link.send(f'{{"type":"bye","from":"{member.id}"}}')
    try:
        await member.link.leave(member.random.choice([1000, 1001]))
    finally:
        member.link = None  # it has left, also if a restart has closed the connection meanwhile
    await asyncio.sleep(member.random.uniform(0, 1))
    await member.connect()
    member.gone(begun)


async def replace(member: Member) -> None:
    """Connect again while the old connection is open, but answers nothing."""
    old = member.link
    assert old is not None
    begun = monotonic()
    old.answers = False
    await _reconnect(member, begun)
    old.cut()


async def conflict(member: Member) -> None:
    """Connect again while the old connection answers: an AceBase id is then in conflict."""
    old = member.link
    assert old is not None
    begun = monotonic()
    if begun < member.conflict_until:
        return
    await member.connect()
    member.conflict_until = monotonic() + CONFLICT
    if not member.acebase:
        member.gone(begun)
    await member.until("the end of the replaced connection", lambda: not old.alive)
    quick = monotonic() - begun < PROBE
    # A connection that could not answer the close in time, after all unread data, is aborted.
    if old.close_code != 4001 and (quick or old.close_code is not None):
        raise Surprise(f"a replaced connection was closed with {old.close_code}")
    asked = monotonic()
    third = await Link.open(member.port, member.target("connect"), ignore, member.source)
    third.cut()
    # Over TLS the relay may not have seen the end of the old connection yet, and on a busy
    # machine our close or our pong may be late.
    quick = quick and member.port.tls is None and monotonic() - asked < PROBE
    if third.status != 409 and quick and member.acebase:
        raise Surprise(f"an id in conflict was accepted: {third.status}")
    if third.status == 101:
        await _settle(member, begun)


async def slow(member: Member) -> None:
    """Read nothing for a while, sometimes while another member sends a lot."""
    link = member.link
    assert link is not None
    link.stop_reading()
    others = [
        each
        for each in member.scene.members[member.database]
        if each is not member and each.link and each.link.alive and not each.busy.locked()
    ]
    try:
        if others and member.random.random() < 0.3:
            await flood(member.random.choice(others), member.id, member.random.randint(1, ENOUGH))
            member.scene.faults["floods"] += 1
        else:
            await asyncio.sleep(member.random.uniform(0.2, KEEPALIVE / 3))
    finally:
        link.resume_reading()
    await member.confirm()


async def flood(member: Member, addressee: str, size: int) -> None:
    """Send *size* bytes to one member."""
    async with member.busy:
        each = MAX_PAYLOAD - 200
        for _ in range(size // each):
            if not (member.link and member.link.alive):
                return
            member.send(addressee, each)
            await asyncio.sleep(0)
        await member.confirm()


async def freeze(member: Member) -> None:
    """Neither read nor answer, as after SIGSTOP, until the relay disconnects; then reconnect."""
    link = member.link
    assert link is not None
    begun = monotonic()
    link.answers = False
    link.stop_reading()
    try:
        await asyncio.sleep(member.random.uniform(KEEPALIVE, KEEPALIVE + SESSION_TIMEOUT))
        await member.noticed()
        link.resume_reading()
        await member.until("the end of the frozen connection", lambda: not link.alive)
    finally:
        link.cut()
        member.link = None  # it has left, also if a restart breaks this off
        member.gone(begun)
    await member.connect()
    member.gone(begun)


async def wrong_token(member: Member) -> None:
    """Use a wrong token for every endpoint."""
    link = await Link.open(member.port, member.target("connect", t="wrong"), ignore, member.source)
    link.cut()
    answers = [("connect", link.status, {403})]
    for method, what, expected in (
        ("POST", "send", {401}),
        ("GET", "clients", {401, 403}),
        ("GET", "receive", {401}),
    ):
        target, body = member.target(what, t="wrong"), UNDELIVERABLE.encode() * (method == "POST")
        status, _ = await ask(member.port, method, target, body, source=member.source)
        answers.append((what, status, expected))
    for what, status, expected in answers:
        if status not in expected:
            raise Surprise(f"{what} with a wrong token was answered with {status}")


async def half_request(member: Member) -> None:
    """Send an incomplete request."""
    target = member.target("send")
    body = UNDELIVERABLE.encode() * 200
    length = f"Content-Length: {2 * len(body)}"
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n"
    whole = head.encode() + body
    wait = member.random.choice([0.1, 1.0, 15.0])
    size = member.random.choice([0, 1, 20, len(head) - 1, len(head), len(whole)])
    task = ask_in_part(member.port, whole[:size], source=member.source, wait=wait)
    await task


async def violate(member: Member) -> None:
    """Violate the protocol: the relay has to close with the code for it."""
    link = member.link
    assert link is not None
    data, code = member.random.choice(
        [
            (frame(b"to:nobody"), 1008),
            (frame(b"to:;" + UNDELIVERABLE.encode()), 1008),
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
        raise Surprise(f"{data[:20]!r} was answered with {link.close_code}, not {code}")
    await _reconnect(member, begun)


async def nonsense(member: Member) -> None:
    """Send messages that the relay drops."""
    assert member.link is not None
    member.link.write(frame(UNDELIVERABLE.encode(), BINARY))
    member.link.send(f"to:no-such-peer;{UNDELIVERABLE}")
    if member.acebase:
        member.link.send(f'{{"type":"bye","from":"{UNDELIVERABLE}"}}')
    await member.confirm()


def ignore(link: Link, text: str) -> None:
    """Discard a text message."""


async def _settle(member: Member, begun: float) -> None:
    """Connect again after a connection that has ended replaced the member's own."""
    link = member.link
    if link is not None:
        await member.until("the end of the replaced connection", lambda: not link.alive)
    await member.connect()
    member.gone(begun)


ACTIONS: dict[Callable[[Member], Awaitable[None]], float] = {
    send_some: 80,
    post: 4,
    cut: 3,
    leave: 1,
    replace: 1,
    conflict: 0.3,
    slow: 1,
    freeze: 0.3,
    wrong_token: 0.5,
    half_request: 1,
    violate: 0.7,
    nonsense: 1,
}
"""The actions of a member, and their relative frequency."""


async def act(member: Member, end: float) -> None:
    """Perform random actions until *end*, in monotonic seconds."""
    faults = member.scene.faults
    await asyncio.sleep(member.random.uniform(0, ARRIVAL))
    while monotonic() < end:
        async with member.busy:
            await come_back(member)
            if member.link is not None and member.link.alive:
                (action,) = member.random.choices(list(ACTIONS), list(ACTIONS.values()))
                faults[action.__name__] += action not in (send_some, post)
                await _attempt(member, action)
        await asyncio.sleep(member.random.expovariate(1 / PAUSE))


async def _attempt(member: Member, action: Callable[[Member], Awaitable[None]]) -> None:
    """Perform an *action*; it is no surprise if a restart or a standstill breaks it off."""
    faults, restarts = member.scene.faults, member.scene.restarts
    try:
        await action(member)
    except (Surprise, OSError, TimeoutError) as error:
        if member.scene.is_restarting or member.scene.restarts != restarts:
            faults["actions that a restart has broken off"] += 1
        elif not isinstance(error, Surprise) and member.scene.pause > LONG_PAUSE:
            faults["connections lost in a standstill of this machine"] += 1
        else:
            member.ledger.record("surprises", f"{member.id} {action.__name__}: {error!r}")


async def come_back(member: Member) -> None:
    """Connect, unless there is a connection."""
    if member.link is None or not member.link.alive:
        await _attempt(member, _return)


async def _return(member: Member) -> None:
    """Connect after the relay has ended the connection, if there was one."""
    faults, link = member.scene.faults, member.link
    if link is not None and link.close_code == RESTART and member.acebase:
        faults["sessions resumed after a restart"] += await member.resume()
        return
    faults["disconnected by the relay"] += link is not None
    begun = monotonic()
    await _reconnect_disconnected(member)
    member.gone(begun - TIMEOUT)


async def _reconnect_disconnected(member: Member) -> None:
    """Connect after the relay has ended the connection.

    The queue of a master may exceed this relay's ``max_backlog``. While it is sent, one more
    message disconnects the master again, together with the answer to its handshake.
    """
    for _ in range(3 if member.id == MASTER else 0):
        try:
            await member.connect()
        except ConnectionResetError:
            member.scene.faults["masters disconnected again"] += 1
        else:
            return
    await member.connect()


async def leave_finally(member: Member) -> None:
    """Wait for all messages, and leave."""
    if member.link is not None and member.link.alive:
        await member.confirm()
        await member.rest()
        await member.link.leave()
    member.link = None
