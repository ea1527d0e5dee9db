"""A pytest plugin: a relay for the tests of programs that use one.

Name it in the ``conftest.py`` at the root of the tests::

    pytest_plugins = ["acebase_ipc.testing.pytest"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.testing.running import running_relay

__all__ = ["acebase_ipc_relay", "acebase_ipc_relay_config"]


@pytest.fixture(scope="session")
def acebase_ipc_relay_config() -> AceBaseIPCServerConfig:
    """How the relay of the tests is to run; define a fixture of this name to change it."""
    return AceBaseIPCServerConfig(port=0)


@pytest.fixture(scope="session")
def acebase_ipc_relay(acebase_ipc_relay_config: AceBaseIPCServerConfig) -> Iterator[str]:
    """The URL of a relay that runs on a free port of loopback until the tests are over.

    All tests of a session share it: give each test a database of its own.
    """
    with running_relay(acebase_ipc_relay_config) as url:
        yield url
