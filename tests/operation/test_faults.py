"""Faults, each caused for real: the relay survives, and logs what it should."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from acebase_ipc.testing import client_frame
from tests.acebase.cluster import Process
from tests.activation import STOP_SECONDS
from tests.integration.peers import Closed, Peers, Refused
from tests.integration.raw import RawClient, post_head
from tests.integration.relay_process import (
    TWISTD,
    Address,
    Twistd,
    find_addresses,
    running_relay,
)
from tests.integration.web import Web
from tests.operation.manager import ServiceManager

MIB = 2**20

FAILING = 0.3
"""The share of a core that a relay with nothing to do does not need, even on a slow machine."""


# -- no file descriptor is left ----------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def leave_descriptors(pid: int, more: int) -> tuple[int, int]:
    """Let a process open that many *more* files; returns its limits of before."""
    used = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()) + 1
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + more, before[1]))
    return before


@pytest_twisted.ensureDeferred
async def test_no_file_descriptors(peers: Peers, manager: ServiceManager) -> None:
    with running_relay(environment=manager.environment) as relay, ExitStack() as crowd:
        assert manager.next_state() == {"READY": "1"}
        first = await peers.join(relay.address, "first")
        second = await peers.join(relay.address, "second")
        assert await first.next() == "connect:second"
        leave_descriptors(relay.pid, 5)
        room = [RawClient(relay.address) for _ in range(5)]
        for each in room:
            crowd.enter_context(each)
            each.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert each.read_answer() == (200, "ok")
        surplus = [crowd.enter_context(RawClient(relay.address)) for _ in range(20)]

        # Connections without a descriptor are closed at once, instead of waiting indefinitely.
        for each in surplus:
            assert each.receive() == b""
        cpu, began = cpu_seconds(relay.pid), time.monotonic()
        await deferToThread(manager.wait_for_ticks, 3)
        spent = cpu_seconds(relay.pid) - cpu
        assert spent < FAILING * (time.monotonic() - began)
        second.tell("to:first;still here")
        assert await first.next() == "msg:still here"

        for each in room:
            each.socket.close()
        await deferToThread(manager.wait_for_ticks, 1)  # until it has closed them, too
        assert await first.received() == []
        third = await peers.join(relay.address, "third")
        assert await first.next() == "connect:third"
        for peer in (first, second, third):
            await peer.leave()
        relay.wait_for("word of EMFILE", lambda log: "EMFILE" in log)
        assert "Traceback" not in relay.log


# -- a defect of the relay -------------------------------------------------------------------------

APPLICATION = """
    from twisted.application.service import Application
    from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig

    application = Application("a relay with a mistake")
    config = AceBaseIPCServerConfig(port=0)
"""


@contextmanager
def running_application(path: Path, text: str) -> Iterator[tuple[Twistd, Address]]:
    """A twistd that runs a relay whose source is changed by *text*; what it logs is the test's."""
    path.write_text(dedent(APPLICATION) + dedent(text))
    with Twistd("--nodaemon", "--pidfile=", "-y", str(path)) as twistd:
        twistd.wait_for("port", find_addresses)
        (address,) = find_addresses(twistd.log)
        yield twistd, address
        twistd.terminate()
        assert twistd.wait_ended() in (0, -signal.SIGTERM)


@pytest_twisted.ensureDeferred
async def test_an_exception_ends_the_peer_whose_message_it_was(
    peers: Peers, tmp_path: Path
) -> None:
    faulty = """
        from acebase_ipc.relay.router import Router

        def deliver(self, sender, addressee, body, deliver=Router._deliver):
            if body == b"a message that we fail at":
                raise ZeroDivisionError("our mistake")
            deliver(self, sender, addressee, body)

        Router._deliver = deliver
        AceBaseIPCServer(config).setServiceParent(application)
    """
    with running_application(tmp_path / "faulty.tac", faulty) as (twistd, address):
        first = await peers.join(address, "first")
        second = await peers.join(address, "second")
        third = await peers.join(address, "third")
        assert await first.take(2) == ["connect:second", "connect:third"]
        second.tell("before")
        second.tell("a message that we fail at")

        assert await second.closed() == Closed(1011, "internal error")
        assert await first.take(2) == ["msg:before", "disconnect:second"]
        third.tell("after")
        assert await first.next() == "msg:after"
        assert twistd.log.count("ZeroDivisionError: our mistake") == 1
        assert twistd.log.count("Traceback") == 1
        assert "a message that we fail at" not in twistd.log
        for each in (first, third):
            await each.leave()


@pytest_twisted.ensureDeferred
async def test_an_observer_that_fails_stops_nothing(peers: Peers, tmp_path: Path) -> None:
    failing = """
        class Failing:
            def report(self, event):
                raise ZeroDivisionError("no observer is perfect")

        AceBaseIPCServer(config, observer=Failing()).setServiceParent(application)
    """
    with running_application(tmp_path / "failing.tac", failing) as (twistd, address):
        first = await peers.join(address, "first")
        second = await peers.join(address, "second")
        second.tell("to:nobody;hello")
        second.tell("to:first;hello")
        assert await first.take(2) == ["connect:second", "msg:hello"]
        second.vanish()
        assert await first.next() == "disconnect:second"
        with pytest.raises(Refused):
            await peers.connect(address, "x")  # too short an id: refusing is reported, too
        await first.leave()
        assert "no observer is perfect" in twistd.log


# -- a full disk -------------------------------------------------------------------------------


def size_limit(pid: int, size: int | None) -> None:
    """Let a process write no file beyond *size*: the next write fails as on a full disk."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@pytest.mark.parametrize("form", ["twistd's own", "text", "json"])
@pytest_twisted.ensureDeferred
async def test_a_full_disk_under_the_log(
    peers: Peers, manager: ServiceManager, tmp_path: Path, form: str
) -> None:
    log = tmp_path / "relay.log"
    path = tmp_path / "relay.sock"
    options = () if form == "twistd's own" else ("--log-format", form)
    with Twistd(
        *("--nodaemon", "--pidfile=", f"--logfile={log}", "acebase-ipc"),
        *("--port", f"unix:{path}", *options),
        environment=manager.environment,
    ) as relay:
        assert manager.next_state() == {"READY": "1"}
        address = Address(path=str(path))
        first = await peers.join(address, "first")
        full = log.stat().st_size
        size_limit(relay.pid, full)

        second = await peers.join(address, "second")  # one line that cannot be written
        second.tell("hello")
        assert await first.take(2) == ["connect:second", "msg:hello"]
        await second.leave()
        assert await first.next() == "disconnect:second"
        await deferToThread(manager.wait_for_ticks, 1)
        assert log.stat().st_size == full

        size_limit(relay.pid, None)
        third = await peers.join(address, "third")
        assert await first.next() == "connect:third"
        for each in (first, third):
            await each.leave()
        relay.terminate()
        assert await deferToThread(relay.wait_ended) in (0, -signal.SIGTERM)
    text = log.read_text()
    assert "second" not in text
    assert re.search('"third"' if form == "json" else "third joined", text)
    assert "stopped" in text


@pytest_twisted.ensureDeferred
async def test_a_full_disk_under_standard_output(
    peers: Peers, manager: ServiceManager, tmp_path: Path
) -> None:
    path = tmp_path / "relay.sock"
    shell = ["/bin/sh", "-c", 'exec "$@" > /dev/full 2>&1', "sh"]
    command = [TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc", "--port", f"unix:{path}"]
    relay = Process("relay", [*shell, *map(str, command)], manager.environment)
    try:
        assert manager.next_state() == {"READY": "1"}
        address = Address(path=str(path))
        first = await peers.join(address, "first")
        second = await peers.join(address, "second")
        second.tell("hello")
        assert await first.take(2) == ["connect:second", "msg:hello"]
        await deferToThread(manager.wait_for_ticks, 1)
        relay.signal(signal.SIGTERM)
        assert await first.closed() == Closed(1001, "the server is shutting down")
        await deferToThread(relay.wait_ended, STOP_SECONDS)
    finally:
        relay.kill()


# -- a clock that jumps ------------------------------------------------------------------------

YEAR = 365 * 24 * 3600.0

JUMPING = """
import os, sys, time

def jumping(real=time.time, offset=sys.argv.pop(1)):
    with open(offset) as file:
        return real() + float(file.read())

time.time = jumping
from twisted.scripts.twistd import run
run()
"""

ACEBASE = "/library/connect?v=1.0.0&id=abcdefghijklmnopqrstuvwx&t=undefined"


@pytest_twisted.ensureDeferred
async def test_clock_jumps_expire_nothing_and_stop_nothing(
    peers: Peers, manager: ServiceManager, tmp_path: Path
) -> None:
    offset, path = tmp_path / "offset", tmp_path / "relay.sock"
    offset.write_text("0")
    command = [sys.executable, "-c", JUMPING, offset, "--nodaemon", "--pidfile=", "acebase-ipc"]
    relay = Process(
        "relay",
        [*map(str, command), "--port", f"unix:{path}", "--session-timeout", "4"],
        manager.environment,
    )
    address = Address(path=str(path))

    def jump(seconds: float) -> None:
        replacement = tmp_path / "replacement"
        replacement.write_text(str(seconds))
        replacement.rename(offset)
        manager.wait_for_ticks(2)

    try:
        assert manager.next_state() == {"READY": "1"}
        first = await peers.join(address, "first")
        worker = await peers.connect_to(address, ACEBASE)
        assert (await worker.next()).startswith("welcome:")
        body = "x" * 20_000
        assert (
            await Web(address).post("/library/send", f"to:first;{body}", id="first")
        ).text == "ok"
        assert await first.next() == "connect:abcdefghijklmnopqrstuvwx"
        announced = (await first.next()).removeprefix("get:")
        with RawClient(address) as slow:
            slow.send(b"GET /healthz HTTP/1.1\r\nHost: local")
            worker.vanish()

            await deferToThread(jump, YEAR)
            slow.send(b"host\r\n\r\n")
            assert slow.read_answer() == (200, "ok")
            assert await first.received() == []  # the worker has its session
            answer = await Web(address).get("/library/receive", id="first", msg=announced)
            assert answer.text == body

            await deferToThread(jump, -YEAR)
            assert await first.next() == "disconnect:abcdefghijklmnopqrstuvwx"
        await first.leave()
        relay.signal(signal.SIGTERM)
        await deferToThread(relay.wait_ended, STOP_SECONDS)
        assert "Traceback" not in relay.text()
    finally:
        relay.kill()


# -- the end, with clients that delay it --------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_sigterm_with_a_large_post_and_a_stuck_peer(peers: Peers) -> None:
    with (
        running_relay() as relay,
        RawClient(relay.address, receive_buffer=4096) as stuck,
        RawClient(relay.address) as posting,
    ):
        stuck.upgrade("/library/connect?id=stuck&v=1.0.0")
        sender = await peers.join(relay.address, "sender")
        for _ in range(1000):  # more than all buffers of the system hold
            sender.tell("x" * 16_000)
        posting.send(post_head("/library/send?id=sender", f"Content-Length: {16 * MIB}"))
        posting.send(b"x" * (8 * MIB))
        assert await sender.received() == []

        began = time.monotonic()
        await deferToThread(relay.stop, STOP_SECONDS)

        assert time.monotonic() - began < STOP_SECONDS
        assert await sender.closed() == Closed(1001, "the server is shutting down")


# -- memory ------------------------------------------------------------------------------------

MAX_MEMORY = 8 * MIB


def resident(pid: int, which: str) -> int:
    """Bytes of memory that a process has now (VmRSS), or had at most (VmHWM)."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest_twisted.ensureDeferred
async def test_peers_that_do_not_read_are_cut_for_memory(
    peers: Peers, manager: ServiceManager
) -> None:
    options = (f"--max-memory={MAX_MEMORY}",)
    with (
        running_relay(options=options, environment=manager.environment) as relay,
        ExitStack() as crowd,
    ):
        sender = await peers.join(relay.address, "sender")
        for number in range(3):
            stuck = crowd.enter_context(RawClient(relay.address, receive_buffer=4096))
            stuck.upgrade(f"/library/connect?id=stuck{number}&v=1.0.0")
        reader = await peers.join(relay.address, "reader")
        before = resident(relay.pid, "VmRSS")
        text = "x" * 16_000

        cut = 0
        for _ in range(8):  # of as much as is allowed in all
            for _ in range(MAX_MEMORY // len(text)):
                sender.tell(text)
            await sender.received()
            # Once a second the relay looks at what it needs.
            await deferToThread(manager.wait_for_ticks, 1)
            cut += sum(each.startswith("disconnect:stuck") for each in await reader.received())

        assert cut == 3
        pattern = re.compile(r"stuck\d from \S+ is disconnected: .* exceeds max_memory")
        relay.wait_for("3 lines", lambda log: len(pattern.findall(log)) == 3)
        # As much again comes in a second, and more is used for what is on its way.
        assert resident(relay.pid, "VmHWM") - before < 5 * MAX_MEMORY
        await reader.leave()
        await sender.leave()


@pytest_twisted.ensureDeferred
async def test_messages_that_do_not_end_are_cut_for_memory(peers: Peers) -> None:
    options = (f"--max-memory={MAX_MEMORY}", "--max-payload=16MiB")
    with running_relay(options=options) as relay, ExitStack() as crowd:
        reader = await peers.join(relay.address, "reader")
        whole = client_frame(b"x" * (MAX_MEMORY // 2))
        halves = [crowd.enter_context(RawClient(relay.address)) for _ in range(4)]
        for number, half in enumerate(halves):
            half.upgrade(f"/library/connect?id=half{number}&v=1.0.0")
            assert await reader.next() == f"connect:half{number}"
        for half in halves:  # the third one's exceeds the limit
            half.send(whole[:-1])
        gone = sorted([await reader.next() for _ in range(2)])
        assert all(each.startswith("disconnect:half") for each in gone)
        pattern = re.compile(r"half\d from \S+ is disconnected: .* exceeds max_memory")
        relay.wait_for("2 lines", lambda log: len(pattern.findall(log)) >= 2)
        assert await reader.received() == []
        await reader.leave()
