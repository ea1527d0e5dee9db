"""The Quadlet file, read by Podman in a new system of Debian."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import PROJECT
from tests.packaging.system import System

pytestmark = pytest.mark.systems

FILE = PROJECT / "contrib" / "podman" / "acebase-ipc.container"


def test_podman_makes_a_unit_of_it(space: Path, new_system: Callable[[str], System]) -> None:
    system = new_system("trixie").copy(space / "podman")
    system.install("podman")
    system.write(f"etc/containers/systemd/{FILE.name}", FILE.read_text(encoding="utf-8"))

    unit = system.run("/usr/libexec/podman/quadlet", "-dryrun")  # it fails at an unknown setting

    assert "---acebase-ipc.service---" in unit
    assert "ExecStart=/usr/bin/podman run " in unit
