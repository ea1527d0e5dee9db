"""Relays in processes that hand over to each other: the signal, the command, a path, a pid file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from acebase_ipc.testing import client_frame
from tests.acebase.cluster import Process
from tests.activation import ActivatedRelay, activated, listening_socket
from tests.certificates import make_certificate
from tests.integration.raw import RawClient, post_head
from tests.integration.relay_process import (
    DEADLINE,
    TWISTD,
    Address,
    RelayProcess,
    Twistd,
    clean_environment,
    endpoint,
    find_addresses,
    on_loopback,
)
from tests.operation.manager import ServiceManager
from tests.operation.test_systemd import certificate_at

HAND_OVERS = 4


class Upgraded(RelayProcess):
    """A relay and its successors, which write to the same output.

    :ivar present: the id of the present process.
    """

    def __init__(self, *ports: str, **options: object) -> None:
        super().__init__(*ports, **options)  # type: ignore[arg-type]
        self.present = self.pid
        self.hand_overs = 0
        self.wait_for("start", partial(has, "#info] ready", 1))

    def wait_handed_over(self) -> None:
        """Wait until the next process serves, and the former has ended."""
        self.hand_overs += 1
        self.wait_for("the successor", partial(has, " has taken over", self.hand_overs))
        self.wait_for("ready", partial(has, "#info] ready", self.hand_overs + 1))
        former, self.present = (
            self.present,
            int(self.log.rpartition(" has taken over")[0].rpartition(" ")[2]),
        )
        with suppress(psutil.NoSuchProcess):
            psutil.Process(former).wait(DEADLINE)

    def hand_over(self) -> None:
        """Let a new process take over."""
        os.kill(self.present, signal.SIGUSR2)
        self.wait_handed_over()

    def files(self) -> int:
        """The number of open descriptors."""
        return len(os.listdir(f"/proc/{self.present}/fd"))

    def end(self) -> None:
        """End the present process, which must end cleanly."""
        os.kill(self.present, signal.SIGTERM)
        self.wait_for("end", partial(has, "stopped", 1))
        assert "Traceback" not in self.log, self.log

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if error is None:
                self.end()
        finally:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(self.present).kill()
            self._child.kill()
            self._child.wait(DEADLINE)


def has(words: str, times: int, log: str) -> bool:
    """Whether a log has some words so many times."""
    return log.count(words) == times


@contextmanager
def peers(address: Address, *names: str) -> Iterator[list[RawClient]]:
    """Peers that have received all that their joining causes."""
    clients = []
    try:
        for name in names:
            client = RawClient(address)
            clients.append(client)
            assert client.upgrade(f"/library/connect?id={name}&v=1.0.0").startswith(b"HTTP/1.1 101")
            client.send(client_frame("ping"))
            client.read_until(b"pong")
        yield clients
    finally:
        for client in clients:
            client.socket.close()


def say(sender: RawClient, receiver: RawClient, name: str, text: str) -> None:
    """Send a message to a peer of this *name*, which arrives, and does not stay silent."""
    receiver.send(client_frame("ping"))
    receiver.read_until(b"pong")
    sender.send(client_frame(f"to:{name};{text}"))
    assert receiver.read_until(text.encode()).endswith(b"msg:")


ENDPOINTS = {
    "tcp": lambda path: on_loopback(),
    "tcp6": lambda path: endpoint("tcp6", 0, interface="::1"),
    "unix": lambda path: endpoint("unix", str(path / "socket")),
    "unix without a lock": lambda path: endpoint("unix", str(path / "socket"), lockfile=0),
}


@pytest.mark.parametrize("kind", ENDPOINTS)
def test_a_port_of_any_kind_is_handed_over(tmp_path: Path, kind: str) -> None:
    with (
        Upgraded(ENDPOINTS[kind](tmp_path)) as relay,
        peers(relay.address, "reader", "writer") as (reader, writer),
    ):
        for number in (1, 2):
            relay.hand_over()
            say(writer, reader, "reader", f"after {number}")
        assert set(find_addresses(relay.log)) == {relay.address}
        with peers(relay.address, "newcomer"):
            pass
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("socket")]


def test_a_socket_of_a_service_manager_is_handed_over() -> None:
    with listening_socket() as listener, ActivatedRelay(listener) as relay:
        address = Address(port=relay.address.port)
        with peers(address, "reader", "writer") as (reader, writer):
            relay.signal(signal.SIGUSR2)
            relay.wait_for("successor", lambda: " has taken over" in relay.text())
            relay.wait_for("ready", lambda: relay.text().count("#info] ready") == 2)
            present = psutil.Process(
                int(relay.text().rpartition(" has taken over")[0].rpartition(" ")[2])
            )
            try:
                say(writer, reader, "reader", "after it")
                with peers(address, "newcomer"):
                    pass
            finally:
                present.terminate()
                relay.wait_ended(DEADLINE)


def is_told(relay: Process, text: str, times: int) -> bool:
    """Whether *text* is in the log of a relay and of its successors so many times."""
    return relay.text().count(text) == times


@pytest.mark.parametrize("which", ["", "index=0:"], ids=["all of them", "one of them"])
def test_sockets_of_a_service_manager_with_tls_are_handed_over(tmp_path: Path, which: str) -> None:
    certificate = make_certificate(tmp_path)
    port = f"ssl:systemd:{which}privateKey={certificate.pem}"
    with listening_socket() as first, listening_socket() as second:
        sockets = [first] if which else [first, second]
        command = (TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc", "--port", port)
        descriptors = [each.fileno() for each in sockets]
        relay = Process("relay", activated(sockets, *command), {}, descriptors)
        present = relay.pid
        try:
            relay.wait_for("start", partial(is_told, relay, "#info] ready", 1))
            for count in (2, 3):
                os.kill(present, signal.SIGUSR2)
                for text, times in ("#info] ready", count), (" has taken over", count - 1):
                    relay.wait_for(text, partial(is_told, relay, text, times))
                told = relay.text().rpartition(" has taken over")[0]
                present = int(told.rpartition(" ")[2])
                for each in sockets:
                    presented = certificate_at(each, certificate.root, "localhost")
                    assert presented == certificate.certificate.read_text()
        finally:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(present).kill()
            relay.kill()


def test_a_port_for_proxies_is_handed_over() -> None:
    port = f"haproxy:{on_loopback()}"
    with Upgraded(port, options=("--trust-proxy", "127.0.0.1", "--token", "secret")) as relay:
        with RawClient(relay.address) as client:
            client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 9163\r\n")
            answer = client.upgrade("/library/connect?id=reader&v=1.0.0&t=secret")
            assert answer.startswith(b"HTTP/1.1 101 ")
            relay.hand_over()
            client.send(client_frame("ping"))
            assert client.read_until(b"pong")
        with RawClient(relay.address) as client:
            client.send(b"PROXY TCP4 192.0.2.8 127.0.0.1 5000 9163\r\n")
            answer = client.upgrade("/library/connect?id=other&v=1.0.0&t=secret")
            assert answer.startswith(b"HTTP/1.1 101 ")
        relay.wait_for("address", lambda log: "other joined from 192.0.2.8:5000" in log)


def test_peers_with_tls_connect_again_to_the_successor(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    port = on_loopback("ssl", privateKey=certificate.pem)
    plain = on_loopback()
    with Upgraded(port, plain, root=certificate.root) as relay:
        secure, other = relay.addresses
        with peers(secure, "secure") as (client,), peers(other, "reader") as (reader,):
            relay.hand_over()
            client.read_until(b"\x03\xf4")  # 1012
            with peers(secure, "secure") as (again,):
                say(again, reader, "reader", "here again")


def test_connections_that_wait_in_the_queue_are_accepted_by_the_successor() -> None:
    with Upgraded(on_loopback()) as relay:
        os.kill(relay.present, signal.SIGSTOP)
        waiting = RawClient(relay.address)
        waiting.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        os.kill(relay.present, signal.SIGUSR2)
        os.kill(relay.present, signal.SIGCONT)
        relay.wait_handed_over()
        assert waiting.read_answer() == (200, "ok")
        waiting.socket.close()


def test_a_message_that_is_posted_meanwhile_arrives() -> None:
    with (
        Upgraded(on_loopback()) as relay,
        peers(relay.address, "reader", "writer") as (reader, _),
        RawClient(relay.address) as client,
    ):
        client.send(post_head("/library/send?id=writer", "Content-Length: 16") + b"to:reader")
        with RawClient(relay.address) as probe:  # until it has been read
            probe.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert probe.read_answer() == (200, "ok")
        os.kill(relay.present, signal.SIGUSR2)
        relay.wait_for("ready", partial(has, "#info] ready", 2))
        client.send(b";posted")
        assert client.read_answer() == (200, "ok")
        assert reader.read_until(b"posted").endswith(b"msg:")
        relay.wait_handed_over()


def test_a_download_is_completed_and_the_successor_knows(tmp_path: Path) -> None:
    admin, text = tmp_path / "admin.sock", "x" * 12_000_000  # more than the sockets hold
    options = ("--admin", endpoint("unix", str(admin)))
    with (
        Upgraded(on_loopback(), options=options) as relay,
        peers(relay.address, "reader", "writer") as (reader, _),
        RawClient(relay.address, receive_buffer=200_000) as client,
    ):
        head = post_head("/library/send?id=writer", f"Content-Length: {len(text) + 10}")
        with RawClient(relay.address) as writer:
            writer.send(head + b"to:reader;" + text.encode())
            assert writer.read_answer() == (200, "ok")
        reader.read_until(b"get:")
        reader.send(client_frame("ping"))
        message = reader.read_until(b"\x81\x04pong").decode()
        client.send(f"GET /library/receive?id=reader&msg={message} HTTP/1.1\r\n".encode())
        client.send(b"Host: 127.0.0.1\r\n\r\n")
        client.socket.recv(1, socket.MSG_PEEK)
        os.kill(relay.present, signal.SIGUSR2)
        relay.wait_for("ready", partial(has, "#info] ready", 2))
        assert client.read_answer() == (200, text)
        relay.wait_handed_over()
        with RawClient(Address(path=str(admin))) as scraper:
            scraper.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            scraper.read_until(b"acebase_ipc_large_message_downloads_total 1.0")


def test_a_successor_that_cannot_start_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('log_level = "info"\n')
    with Upgraded(on_loopback(), options=("--config", str(config))) as relay:
        with peers(relay.address, "reader", "writer") as (reader, writer):
            config.write_text("log_level = 7\n")
            os.kill(relay.present, signal.SIGUSR2)
            relay.wait_for("failure", partial(has, "is not handed over, and goes on", 1))
            say(writer, reader, "reader", "still here")
            config.write_text('admin = ["tcp:1:interface=192.0.2.1"]\nadmin_token_file = "/x"\n')
            os.kill(relay.present, signal.SIGUSR2)
            relay.wait_for("failure", partial(has, "is not handed over, and goes on", 2))
            say(writer, reader, "reader", "here again")
            config.write_text('log_level = "warn"\nsession_timeout = 7\n')
            os.kill(relay.present, signal.SIGUSR2)
            relay.wait_for("success", partial(has, " has taken over", 1))
            relay.present = int(relay.log.rpartition(" has taken over")[0].rpartition(" ")[2])
            say(writer, reader, "reader", "here too")
        os.kill(relay.present, signal.SIGTERM)
        relay.wait_ended()
        relay.end = lambda: None  # type: ignore[method-assign]


def test_a_relay_that_is_stopped_meanwhile_has_no_successor() -> None:
    with Upgraded(on_loopback()) as relay, peers(relay.address, "reader"):
        os.kill(relay.present, signal.SIGUSR2)
        os.kill(relay.present, signal.SIGTERM)
        relay.wait_ended()  # the successor writes to the same output
        assert "nothing is taken over: it is about to stop" in relay.log
        relay.end = lambda: None  # type: ignore[method-assign]


def test_nothing_grows_with_each_hand_over() -> None:
    with Upgraded(on_loopback()) as relay, peers(relay.address, "reader", "writer") as clients:
        relay.hand_over()
        files = relay.files()
        memory = psutil.Process(relay.present).memory_info().rss
        for number in range(HAND_OVERS):
            relay.hand_over()
            say(clients[1], clients[0], "reader", f"message {number}")
        assert relay.files() <= files
        assert psutil.Process(relay.present).memory_info().rss < memory * 1.1


def test_the_journal_and_its_directory_are_handed_over(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Upgraded(on_loopback(), options=("--state-dir", str(state))) as relay:
        before = (state / "journal").stat().st_ino
        relay.hand_over()
        assert (state / "journal").stat().st_ino != before
        assert sorted(each.name for each in state.iterdir()) == ["journal"]
        with Twistd(
            *("--nodaemon", "--pidfile=", "acebase-ipc", "--port", on_loopback()),
            *("--state-dir", str(state)),
        ) as other:
            assert other.wait_ended() == 1
            assert "another relay uses it" in other.log


def test_a_process_manager_is_told_of_the_successor(tmp_path: Path) -> None:
    with (
        ServiceManager(tmp_path / "notify", watchdog=None) as manager,
        Upgraded(on_loopback(), environment=manager.environment) as relay,
    ):
        assert manager.next_state() == {"READY": "1"}
        relay.hand_over()
        assert manager.next_state().keys() == {"RELOADING", "MONOTONIC_USEC"}
        states = [manager.next_state(), manager.next_state()]
        assert {"MAINPID": str(relay.present), "READY": "1"} in states
        assert {"READY": "1"} in states
        relay.end()
        assert manager.next_state() == {"STOPPING": "1"}
        relay.end = lambda: None  # type: ignore[method-assign]


def test_a_successor_has_a_watchdog_of_its_own(tmp_path: Path) -> None:
    with ServiceManager(tmp_path / "notify") as manager:
        port = on_loopback()
        with Upgraded(port, environment=manager.environment) as relay:
            manager.wait_for_ticks(1)
            relay.hand_over()
            manager.wait_for_ticks(2)


def test_the_command_hands_over_and_tells_the_process(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    options = ("--admin", endpoint("unix", str(admin)))
    command = [sys.executable, "-m", "acebase_ipc", "--admin", f"unix:{admin}"]
    with Upgraded(on_loopback(), options=options) as relay:
        for _ in range(2):
            done = subprocess.run(
                [*command, "upgrade"],
                capture_output=True,
                text=True,
                timeout=DEADLINE * 3,
                env=clean_environment(),
            )
            assert (done.returncode, done.stderr) == (0, "")
            relay.wait_handed_over()
            assert done.stdout == f"The relay is the process {relay.present} now.\n"


def test_a_daemon_leaves_its_pid_file_to_its_successor(tmp_path: Path) -> None:
    pid_file, log, path = tmp_path / "pid", tmp_path / "log", tmp_path / "socket"
    command: list[str | Path] = [
        *(TWISTD, "--pidfile", pid_file, "--logfile", log, "acebase-ipc"),
        *("--port", on_loopback(), "--take-over-from", path),
    ]

    def run() -> int:
        subprocess.run(command, check=True, timeout=DEADLINE, env=clean_environment())
        return int(pid_file.read_text())

    started = []
    try:
        started.append(run())
        (address,) = find_addresses(log.read_text())
        with peers(address, "reader", "writer") as (reader, writer):
            for number in (1, 2):
                former = psutil.Process(started[-1])
                started.append(run())
                assert started[-1] != former.pid
                say(writer, reader, "reader", f"after {number}")
                former.wait(DEADLINE)
                assert int(pid_file.read_text()) == started[-1]
            os.kill(started[-1], signal.SIGTERM)
            psutil.Process(started[-1]).wait(DEADLINE)
        assert not pid_file.exists()
        assert not path.exists()
        assert "Traceback" not in log.read_text()
    finally:
        for pid in started:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if str(tmp_path) in " ".join(process.cmdline()):
                    process.kill()


def test_the_socket_of_the_predecessor_serves_the_next_successor(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = ("--nodaemon", "--pidfile=", "acebase-ipc", "--take-over-from", str(path))
    with Twistd(*arguments, "--port", on_loopback()) as first:
        first.wait_for("start", partial(has, "#info] ready", 1))
        (address,) = find_addresses(first.log)
        with (
            peers(address, "reader", "writer") as (reader, writer),
            Twistd(*arguments, "--port", on_loopback()) as second,
        ):
            second.wait_for("start", partial(has, "#info] ready", 1))
            assert first.wait_ended() == 0
            assert find_addresses(second.log) == [address]
            with socket.socket(socket.AF_UNIX) as client:  # one that says nothing
                client.connect(str(path))
                say(writer, reader, "reader", "go on")
            second.wait_for("failure", partial(has, "and goes on", 1))
            say(writer, reader, "reader", "and on")
