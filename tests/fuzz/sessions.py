"""A resumable session whose connections are lost, against a peer that loses none."""

from __future__ import annotations

import json
import re

from acebase_ipc.protocol.handshake import Resume
from tests.fuzz.reader import Reader
from tests.relay.core import Core, Process

MAX_STEPS = 60
MAX_PAYLOAD = 200

_NUMBERED = re.compile(r"n:(\d+);(.*)", re.DOTALL)


class Numbered:
    """The other end of a resumable session, which does what a client has to do.

    :ivar received: its messages.
    :ivar unacknowledged: what it has sent and keeps, by number.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.received: list[str] = []
        self.unacknowledged: dict[int, str] = {}
        self._sent = 0
        self._connect(Resume())

    def _connect(self, resume: Resume) -> None:
        self._process = self._core.join("alice", resume=resume)
        self._process.connection.batching = True
        self._read = 0
        self._read_some(1)

    def _read_some(self, count: int) -> None:
        """Receive the next messages of the connection, at most so many."""
        texts = self._process.connection.texts[self._read : self._read + count]
        self._read += len(texts)
        for text in texts:
            numbered = _NUMBERED.fullmatch(text)
            if numbered:
                self.received.append(numbered[2])
                assert int(numbered[1]) == len(self.received), "in order, and each once"
            elif text.startswith("ack:"):
                self._forget(int(text[4:]))
            elif text.startswith("welcome:"):
                self._welcome = json.loads(text.removeprefix("welcome:"))
            else:
                assert text == "pong"

    def _forget(self, number: int) -> None:
        assert number <= self._sent
        kept = self.unacknowledged.items()
        self.unacknowledged = {each: text for each, text in kept if each > number}

    def acknowledge(self, behind: int) -> None:
        """Acknowledge all but the last messages, at most so many of these."""
        number = len(self.received) - behind
        if number > 0:
            self._process.says(f"ack:{number}")

    def say(self, text: str, is_lost: bool) -> None:
        """Send a message, which may be lost on its way."""
        self._sent += 1
        self.unacknowledged[self._sent] = text
        if not is_lost:
            self._send(self._sent, text)

    def _send(self, number: int, text: str) -> None:
        if len(text) > MAX_PAYLOAD:
            self._process.posts(f"s:{self._welcome['session']};n:{number};{text}")
        else:
            self._process.says(f"n:{number};{text}")

    def ping(self) -> None:
        self._process.says("ping")

    def congest(self) -> None:
        self._process.stops_reading()

    def drain(self) -> None:
        self._process.reads_on()

    def come_back(self, received: int, is_noticed: bool, seconds: float) -> None:
        """Lose the connection after some messages, and come back."""
        self._read_some(received)
        if is_noticed:
            self._process.is_lost()
        self._core.wait(seconds)
        self._connect(Resume(self._welcome["session"], len(self.received)))
        assert self._welcome["resumed"]
        self._forget(self._welcome["received"])
        for number, text in self.unacknowledged.items():
            self._send(number, text)

    def read_all(self) -> None:
        """Receive all that has come."""
        self._read_some(len(self._process.connection.texts))


def play(reader: Reader) -> None:
    """Let the same messages go to both, and compare what they have received in the end."""
    core = Core(session_timeout=15, max_payload=MAX_PAYLOAD)
    witness, sender = core.join("witness"), core.join("sender")
    core.hush()
    alice = Numbered(core)
    said: list[str] = []
    for number in range(MAX_STEPS):
        if reader.is_done:
            break
        _step(reader, core, alice, sender, number, said)
    alice.come_back(0, True, 0)
    core.wait(1)
    alice.read_all()
    assert alice.unacknowledged == {}
    heard = [each for each in witness.hears() if each != "connect:alice"]
    from_sender = [each for each in heard if each.startswith("msg:s")]
    assert alice.received == from_sender
    from_alice = [each for each in heard if each not in from_sender]
    expected = [each if len(each) > MAX_PAYLOAD else f"msg:{each}" for each in said]
    assert len(from_alice) == len(expected)
    for text, wanted in zip(from_alice, expected, strict=True):
        assert text == wanted or (text.startswith("get:") and len(wanted) > MAX_PAYLOAD)


def _step(
    reader: Reader, core: Core, alice: Numbered, sender: Process, number: int, said: list[str]
) -> None:
    padding = reader.choose(["", "x" * 30, "語" * 60])
    match reader.number(7):
        case 0 | 1:
            sender.says(f"s{number} {padding}")
        case 2 | 3 as kind:
            said.append(f"a{number} {reader.choose([padding, 'y' * 300])}")
            # What comes after a lost message is lost, too, as on any connection.
            alice.say(said[-1], is_lost=kind == 3)
            if kind == 3:
                alice.come_back(reader.number(5), reader.choose([True, False]), 0)
        case 4:
            alice.acknowledge(reader.number(5))
            alice.ping()
        case 5:
            alice.congest()
        case 6:
            alice.drain()
        case _:
            if reader.number(3) == 0:
                core.restart(keeps_connections=True)
            seconds = reader.choose([0, 1, 14])
            alice.come_back(reader.number(20), reader.choose([True, False]), seconds)
