"""What the tests on real sockets share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.certificates import Certificate, make_certificate, make_chain, make_pfx
from tests.integration.peers import Peers
from tests.integration.relay_process import RelayProcess, running_relay

PASSPHRASE = "open: the \\ bundle"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A server's certificate below an intermediate one; clients trust the root alone."""
    return make_chain(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that clients trust itself."""
    return make_certificate(tmp_path_factory.mktemp("self_signed"))


@pytest.fixture(scope="session")
def roots(
    certificate: Certificate, self_signed: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a client has to trust for either of them."""
    path = tmp_path_factory.mktemp("roots") / "roots.pem"
    path.write_bytes(certificate.root.read_bytes() + self_signed.root.read_bytes())
    return path


@pytest.fixture(scope="session")
def pfx(certificate: Certificate) -> Path:
    """The same as a PKCS#12 bundle, locked with :data:`PASSPHRASE`."""
    return make_pfx(certificate, PASSPHRASE)


@pytest.fixture(scope="module")
def plain() -> Iterator[RelayProcess]:
    """A relay with nothing but its defaults, for the tests of one module."""
    with running_relay() as relay:
        yield relay


@pytest_twisted.async_yield_fixture
async def peers() -> AsyncIterator[Peers]:
    """Makes documented peers; their connections end with the test."""
    made = Peers()
    yield made
    await made.leave()
