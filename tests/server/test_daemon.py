"""What a process that is nothing but a relay does beside its server."""

from __future__ import annotations

from pathlib import Path

import pytest

from acebase_ipc.server.daemon import Daemon
from acebase_ipc.server.process import Launch, Signals
from acebase_ipc.server.settings import Settings, Sources
from acebase_ipc.testing.reactor import MemoryReactor
from tests.operation.manager import ServiceManager


class Defective(Sources):
    """Sources that can be read once."""

    has_been_read = False

    def read(self) -> Settings:
        """Return the options, or fail as nobody expects."""
        if self.has_been_read:
            raise RuntimeError("a defect")
        type(self).has_been_read = True
        return super().read()


def test_the_service_manager_does_not_wait_for_a_reload_that_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ServiceManager(tmp_path / "notify") as manager:
        for name, value in manager.environment.items():
            monkeypatch.setenv(name, value)
        # The handlers of the signals of this process stay as they are.
        signals = Signals.__new__(Signals)
        daemon = Daemon(Defective({}, {}, None), MemoryReactor(), signals, Launch())
        with pytest.raises(RuntimeError):
            daemon._reload()
        assert "RELOADING" in manager.receive()
        assert manager.receive() == {"READY": "1"}
