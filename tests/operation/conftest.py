"""What the tests of operation share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.integration.peers import Peers
from tests.operation.manager import ServiceManager


@pytest_twisted.async_yield_fixture
async def peers() -> AsyncIterator[Peers]:
    """Makes documented peers; their connections end with the test."""
    made = Peers()
    yield made
    await made.leave()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """A service manager that is notified of the state of a service."""
    with ServiceManager(tmp_path / "notify") as listening:
        yield listening
