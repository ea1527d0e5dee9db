"""Bad input of every kind is refused with the right answer, and affects no other client."""

from __future__ import annotations

from acebase_ipc.testing import MemoryConnection, MemoryPeer, MemoryRelay, Opcode, parse_responses
from bench.attacks.bad_input import BAD_INPUT, CLOSED, BadInput, status_of
from bench.attacks.peers import upgrade

TOKEN = "the-right-token"


def answer(relay: MemoryRelay, bad: BadInput) -> int:
    """The status or close code with which *bad* is answered."""
    wire = relay.connect()
    wire.send(bad.data)
    relay.pass_time(2)  # from the eleventh wrong token on the answer is late
    if not bad.frames:
        data = wire.take()
        status = next(parse_responses(data)).status if data else CLOSED
        assert status_of(data) == status  # as the benchmark parses it
        return status
    peer = MemoryPeer("mallory", wire)
    wire.send(bad.frames)
    return next((each.close_code for each in peer.frames() if each.opcode == Opcode.CLOSE), CLOSED)


def talks(one: MemoryPeer, other: MemoryPeer) -> bool:
    """Whether a message gets through."""
    other.received()
    one.say(f"to:{other.id};still here")
    return other.received() == ["msg:still here"]


def test_bad_input_is_refused() -> None:
    """A relay in memory fails the test if it logs a traceback."""
    relays = {True: MemoryRelay(token=TOKEN), False: MemoryRelay()}
    pairs = {
        guarded: relay.join_all(
            "honest-one", "honest-other", database="honest", query=f"&t={TOKEN}"
        )
        for guarded, relay in relays.items()
    }
    wrong = []
    for bad in BAD_INPUT:
        got = answer(relays[bad.guarded], bad)
        if got != bad.answer or not talks(*pairs[bad.guarded]):
            wrong.append((bad, got))
    assert wrong == []


def test_what_is_not_bad_is_not_refused() -> None:
    """Else a relay that refuses everything would pass."""
    relay = MemoryRelay(token=TOKEN)
    wire: MemoryConnection = relay.connect()
    wire.send(upgrade(f"/honest/connect?id=mallory&v=1.0.0&t={TOKEN}"))
    assert talks(MemoryPeer("mallory", wire), relay.join("honest", "honest", query=f"&t={TOKEN}"))
