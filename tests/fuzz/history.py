"""Histories of the relay, made of bytes: the same rules as in ``test_relay_model``."""

from __future__ import annotations

from tests.fuzz.reader import Reader
from tests.relay.core import MASTER
from tests.relay.model import MAX_BACKLOG
from tests.relay.test_model import DATABASES, HANDSHAKES, IDS, RelayMachine

MAX_STEPS = 40

_KINDS = ["text", "object", "envelope", "bye", "foreign bye"]
_PADDINGS = ["", "x" * 30, "读" * 40, "x" * 200, "读" * 200, "😀" * 100]
_ADDRESSEES = [None, "all", MASTER, *IDS, "nobody"]


def play(reader: Reader) -> None:
    """Let a history happen to the relay and to its model, and compare them at each step."""
    machine = RelayMachine()
    arrivals = [_arrival(reader) for _ in range(2 + reader.number(5))]
    machine.begin(reader.choose([15, 15, 0]), reader.choose([True, False]), arrivals)
    check(machine)
    for _ in range(MAX_STEPS):
        if reader.is_done:
            break
        step(machine, reader)
        check(machine)


def _arrival(reader: Reader) -> tuple[str, str, str]:
    return reader.choose(DATABASES), reader.choose(IDS), reader.choose(list(HANDSHAKES))


def step(machine: RelayMachine, reader: Reader) -> None:
    """Let one thing happen."""
    which = reader.number(9)
    match reader.number(9):
        case 0:
            machine.join(*_arrival(reader), reader.choose([True, False]))
        case 1:
            machine.lose(which, reader.choose([None, 1009, 1000, 1001]))
        case 2:
            machine.end_replaced(which, reader.choose([None, 4001]))
        case 3:
            machine.ping(which)
        case 4:
            machine.download(which)
        case 5:
            machine.congest_or_drain(which, reader.choose([0, 1, 500, MAX_BACKLOG]))
        case 6:
            machine.end_turn()
        case 7:
            machine.pass_time(reader.choose([0, 1, 5, 14, 15, 59]))
        case _:
            machine.say(
                which,
                reader.choose(_ADDRESSEES),
                reader.choose(_KINDS),
                reader.choose(_PADDINGS),
                reader.choose([False, True]),
                1 + reader.number(3),
            )


def check(machine: RelayMachine) -> None:
    """Whether all is as the model says."""
    machine.everybody_hears_exactly_what_the_model_says()
    machine.what_arrives_is_of_that_database_in_order_and_never_twice()
    machine.queues_are_within_their_bounds()
    machine.the_relay_knows_who_is_there()
