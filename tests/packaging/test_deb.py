"""The Debian package, built and installed in new systems of Debian.

It is built as on a machine of that release, and installed in a system that has only what Debian
requires. No service manager runs there; the relay is started with the command of its unit.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.system import System

pytestmark = pytest.mark.systems

UNITS = "/usr/lib/systemd/system"
TOKEN = "/etc/acebase-ipc/token"
SOCKET = "/run/acebase-ipc/admin.sock"

MAX_MIB = 25
"""The size of the package; without a limit, what it installs would grow unnoticed."""

STOP_SECONDS = 20
"""The relay needs 5 s at most; the machine may be busy."""

ASK = """
import urllib.request
token = open("/etc/acebase-ipc/token").read().strip()
for query in ("", "?t=wrong", f"?t={token}"):
    try:
        print(urllib.request.urlopen(f"http://127.0.0.1:9163/mydb/clients{query}").status)
    except urllib.error.HTTPError as error:
        print(error.status)
"""


@pytest.fixture(scope="session", params=["trixie", "bookworm"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def package(release: str, builder: Callable[[str], System]) -> Path:
    """The package, built in a system of the release."""
    system = builder(release)
    system.run("make", "--directory=/source", "deb")
    (package,) = system.path("source/dist").glob("*.deb")
    return package


@pytest.fixture(scope="session")
def installed(
    release: str, package: Path, new_system: Callable[[str], System], space: Path
) -> System:
    """A system with the package and what it depends on."""
    system = new_system(release).copy(space / f"{release}-installed")
    system.path(package.name).write_bytes(package.read_bytes())
    system.install(f"/{package.name}")
    return system


def test_the_package_is_small(package: Path) -> None:
    assert package.stat().st_size < MAX_MIB * 1024 * 1024


def test_the_relay_runs_as_its_unit_says(installed: System) -> None:
    unit = installed.path(f"{UNITS}/acebase-ipc.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.*)$", unit.replace("\\\n", " "), re.MULTILINE)
    command = command.replace("systemd:", "tcp:9163:interface=127.0.0.1")
    directories = ["/run/acebase-ipc", "/var/lib/acebase-ipc"]  # RuntimeDirectory=, StateDirectory=
    installed.run("install", "-d", "-m", "700", "-o", "acebase-ipc", *directories)
    user = ["setpriv", "--reuid=acebase-ipc", "--regid=acebase-ipc", "--init-groups"]
    confined = [*user, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]

    with installed.running(
        *confined, *shlex.split(command.replace("%S", "/var/lib")), writable=directories
    ) as relay:
        relay.wait_for("listening on")
        status = relay.run("acebase-ipc", "--admin", f"unix:{SOCKET}", "status")
        asked = relay.run("python3", "-c", ASK)
        relay.stop(STOP_SECONDS)

    assert status.returncode == 0, status.stdout
    assert re.search(r"state +serving", status.stdout)
    assert asked.stdout.split() == ["401", "401", "200"], asked.stdout
    assert "stopped" in relay.text
    assert not re.search("Traceback|plugin", relay.text), relay.text


def test_it_installs_a_token_that_only_the_relay_can_read(installed: System) -> None:
    shown = installed.run("stat", "--format=%U %G %a", TOKEN)

    assert shown.split() == ["root", "acebase-ipc", "640"]
    assert len(installed.path(TOKEN).read_text(encoding="utf-8").strip()) >= 32


def test_its_units_are_enabled(installed: System) -> None:
    wanted = installed.path("etc/systemd/system").glob("*.target.wants/acebase-ipc.*")

    assert {each.name for each in wanted} == {"acebase-ipc.service", "acebase-ipc.socket"}


def test_the_options_are_a_configuration_file(installed: System) -> None:
    listed = installed.run("dpkg-query", "--show", "--showformat=${Conffiles}", "acebase-ipc")

    assert listed.split()[0] == "/etc/default/acebase-ipc"


def test_an_upgrade_keeps_token_and_options_and_a_purge_leaves_nothing(
    installed: System, package: Path, space: Path
) -> None:
    system = installed.copy(space / f"{installed.root.name}-purged")
    token = system.path(TOKEN).read_text(encoding="utf-8")
    options = system.write("etc/default/acebase-ipc", "ACEBASE_IPC_LOG_LEVEL=warn\n")

    system.run("dpkg", "--install", f"/{package.name}")
    assert system.path(TOKEN).read_text(encoding="utf-8") == token
    assert options.read_text(encoding="utf-8") == "ACEBASE_IPC_LOG_LEVEL=warn\n"
    system.run("dpkg", "--remove", "acebase-ipc")
    assert system.path(TOKEN).exists()
    assert not system.path("usr/bin/acebase-ipc").is_symlink()
    system.run("dpkg", "--purge", "acebase-ipc")

    found = system.run("find", "/etc", "/usr", "/var", "-name", "*acebase*")
    assert not found, found
    assert not system.path("opt/acebase-ipc").exists()
