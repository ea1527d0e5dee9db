"""Relays for the tests with real AceBase processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acebase.cluster import Process, Relay, node, running_relay
from tests.certificates import Certificate, make_certificate, make_pfx

TOKEN = "a+b/c=="
PASSPHRASE = "open sesame"

SHORT_SESSIONS = ("--session-timeout=1", "--session-timeout-closed=1")
LONG_SESSIONS = ("--session-timeout=60", "--session-timeout-closed=60")
SOON_LOST = ("--keepalive-interval=1", "--keepalive-timeout=2")
BELOW_LOCK_REQUESTS = "--max-payload=350"
"""UTF-16 units: less than a lock request for ``recovery.COUNTER``, more than other messages."""


@pytest.fixture(scope="session", autouse=True)
def _node() -> None:
    """Skip all tests here, or fail, if Node or AceBase is missing."""
    node()


@pytest.fixture(autouse=True)
def _output() -> Iterator[None]:
    """Print the output of the processes, which pytest shows where a test fails."""
    printed = {process: len(process.output) for process in Process.started}
    yield
    for process in Process.started:
        for line in process.output[printed.get(process, 0) :]:
            sys.stdout.write(f"{process.name}: {line}\n")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def tcp_relay() -> Iterator[Relay]:
    with running_relay() as relay:
        yield relay


@pytest.fixture(scope="module")
def tls_relay(certificate: Certificate) -> Iterator[Relay]:
    """A relay with a token, a ``ssl:`` port, and one with a PKCS#12 bundle."""
    pfx = make_pfx(certificate, PASSPHRASE)
    endpoints = (
        f"ssl:0:privateKey={_escaped(certificate.pem)}:interface=127.0.0.1",
        f"pfx:0:path={_escaped(pfx)}:passphrase={PASSPHRASE}:interface=127.0.0.1",
    )
    with running_relay(endpoints=endpoints, token=TOKEN, certificate=certificate.root) as relay:
        yield relay


@pytest.fixture(scope="module", params=["tcp", "post", "tls"])
def each_relay(request: pytest.FixtureRequest) -> Iterator[Relay]:
    """A relay with sessions of a second; lock requests are sent, posted, or sent over TLS."""
    match request.param:
        case "tcp":
            running = running_relay(*SHORT_SESSIONS)
        case "post":
            running = running_relay(*SHORT_SESSIONS, BELOW_LOCK_REQUESTS)
        case _:
            certificate: Certificate = request.getfixturevalue("certificate")
            endpoint = f"ssl:0:privateKey={_escaped(certificate.pem)}:interface=127.0.0.1"
            running = running_relay(
                *SHORT_SESSIONS, endpoints=[endpoint], certificate=certificate.root
            )
    with running as relay:
        yield relay


@pytest.fixture(scope="module")
def hasty_relay() -> Iterator[Relay]:
    """A relay with sessions of a second that soon finds out about a silent connection."""
    with running_relay(*SHORT_SESSIONS, *SOON_LOST) as relay:
        yield relay


@pytest.fixture(scope="module")
def patient_relay() -> Iterator[Relay]:
    """A relay with sessions that outlast each test."""
    with running_relay(*LONG_SESSIONS) as relay:
        yield relay


@pytest.fixture
def outcome(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Record the outcome of a scenario for the report, before anything is asserted."""
    return lambda text: record_property("outcome", text)


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")
