"""SIGTERM: ports are closed, peers are told, and the process ends in time in any case."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.certificates import Certificate
from tests.integration.peers import Closed, Peers
from tests.integration.raw import RawClient, post_head
from tests.integration.relay_process import (
    TWISTD,
    Address,
    RelayProcess,
    Twistd,
    endpoint,
    find_addresses,
    on_loopback,
    running_relay,
)
from tests.relay.core import MASTER
from tests.relay.locks import grant, lock, new_id, worker_id

SECONDS = 5.0
"""The longest time until the process ends."""

FAREWELL = Closed(1001, "the server is shutting down")


async def stop(relay: RelayProcess) -> None:
    """End the relay in time while our own reactor lives on."""
    await deferToThread(relay.stop, SECONDS)


@pytest_twisted.ensureDeferred
async def test_peers_get_1001_and_the_ports_are_closed(
    peers: Peers, self_signed: Certificate, tmp_path: Path
) -> None:
    path = tmp_path / "relay.sock"
    ports = (
        on_loopback(),
        on_loopback("ssl", privateKey=self_signed.pem),
        endpoint("unix", str(path)),
    )
    with running_relay(*ports, root=self_signed.root) as relay:
        joined = [
            await peers.join(address, f"peer {number}")
            for number, address in enumerate(relay.addresses)
        ]
        assert path.exists()

        await stop(relay)

        assert [await each.closed() for each in joined] == [FAREWELL] * len(joined)
        for address in relay.addresses:
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                RawClient(address)


@pytest_twisted.ensureDeferred
async def test_what_was_sent_before_arrives_before_the_1001(peers: Peers) -> None:
    with running_relay() as relay:
        sender = await peers.join(relay.address, "sender")
        reader = await peers.join(relay.address, "reader")
        reader.transport.pauseProducing()
        messages = [f"{number:05}" * 3000 for number in range(500)]
        for message in messages:
            sender.tell(message)
        assert await sender.received() == ["connect:reader"]
        relay.terminate()
        reader.transport.resumeProducing()

        assert await reader.take(500) == [f"msg:{message}" for message in messages]
        assert await reader.closed() == FAREWELL
        await deferToThread(relay.wait_ended, SECONDS)


@pytest_twisted.ensureDeferred
async def test_peers_that_do_not_read_or_answer_do_not_hold_it_up(peers: Peers) -> None:
    with (
        running_relay() as relay,
        RawClient(relay.address, receive_buffer=4096) as deaf,
        RawClient(relay.address) as silent,
    ):
        deaf.upgrade("/library/connect?id=never-reads&v=1.0.0")
        silent.upgrade("/another/connect?id=never-answers&v=1.0.0")
        sender = await peers.join(relay.address, "sender")
        for _ in range(1000):  # more than all buffers of the system hold
            sender.tell("x" * 16_000)
        assert await sender.received() == []

        await stop(relay)

        assert await sender.closed() == FAREWELL
        assert silent.receive().startswith(b"\x88")


@pytest_twisted.ensureDeferred
async def test_requests_in_progress_do_not_hold_it_up(
    peers: Peers, self_signed: Certificate
) -> None:
    ports = (on_loopback(), on_loopback("ssl", privateKey=self_signed.pem))
    with running_relay(*ports) as relay, ExitStack() as unfinished:
        plain, secure = relay.addresses
        sender = await peers.join(plain, "sender")
        request = post_head("/library/send?id=sender", "Content-Length: 1000") + b"begun"
        for port, begun in (
            (plain.port, b""),
            (plain.port, request[:10]),
            (plain.port, request[:50]),
            (plain.port, request),
            (secure.port, b"\x16\x03\x01"),  # of a TLS handshake
        ):
            client = unfinished.enter_context(RawClient(Address(port=port)))
            client.send(begun)
        assert await sender.received() == []

        await stop(relay)

        assert await sender.closed() == FAREWELL


@pytest.mark.parametrize(
    "command",
    [
        (TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc"),
        (sys.executable, "-m", "acebase_ipc", "serve"),
    ],
    ids=["twistd", "serve"],
)
@pytest_twisted.ensureDeferred
async def test_a_second_signal_ends_the_wait_for_a_quiet_moment(
    peers: Peers, tmp_path: Path, command: Sequence[str | Path]
) -> None:
    worker_name = worker_id(1)
    options = ("--state-dir", str(tmp_path / "state"), "--quiesce-timeout=60")
    with Twistd("--port", on_loopback(), *options, command=command) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        (address,) = find_addresses(relay.log)
        master = await peers.join(address, MASTER, dialect="acebase")
        worker = await peers.join(address, worker_name, dialect="acebase")
        worker.tell(lock(worker_name, new_id()))
        while "lock-request" not in (request := await master.next()):
            pass
        master.tell(grant(request, 7))
        while "lock-result" not in await worker.next():
            pass
        relay.terminate()
        await deferToThread(relay.wait_for, "wait", lambda log: "no transaction runs" in log)
        relay.terminate()
        await deferToThread(relay.wait_ended, SECONDS)
        assert f"{worker_name} has 1 lock(s)" in relay.log
        assert tmp_path.joinpath("state", "state").exists()
        assert [(await each.closed()).code for each in (master, worker)] == [1012, 1012]
