"""The image, built of the Dockerfile in a new system of Debian, and run as an engine runs it.

Buildah runs the steps of the Dockerfile in a chroot. No registry is asked: in place of the image
that the Dockerfile names, it builds on a system of the same release of Debian with its Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import PROJECT
from tests.packaging.system import PATH, System, check, skip_without

pytestmark = pytest.mark.systems

RELEASE = "trixie"

TOKEN = "/run/secrets/acebase-ipc-token"
STATE = "/var/lib/acebase-ipc"

MAX_ADDED_MIB = 90
"""What the relay adds to the image; without a limit it would grow unnoticed."""

STOP_SECONDS = 20
"""The relay needs 5 s at most; the machine may be busy."""

ASK = """
import urllib.request
for host in ("127.0.0.1", "[::1]"):
    for query in ("", "?t=secret"):
        try:
            url = f"http://{host}:9163/mydb/clients{query}"
            print(urllib.request.urlopen(url).status)
        except urllib.error.HTTPError as error:
            print(error.status)
"""


@dataclass(frozen=True, slots=True)
class Image:
    """An image.

    :ivar config: what an engine is told of it.
    :ivar system: its files.
    :ivar added: KiB that it adds to the image that it is built on.
    """

    config: dict[str, Any]
    system: System
    added: int

    @property
    def as_user(self) -> list[str]:
        """What an engine does before a command: it becomes the user, without any capability."""
        user, group = self.config["User"].split(":")
        return [
            *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
            *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it sets."""
        return dict(each.split("=", 1) for each in self.config["Env"])


@pytest.fixture(scope="module")
def image(space: Path, builder: Callable[[str], System]) -> Image:
    """The image of the Dockerfile."""
    skip_without("buildah")
    base = builder(RELEASE)

    def buildah(*arguments: str | Path) -> str:
        return check(
            *("buildah", "--log-level=error"),
            *(f"--root={space}/images", f"--runroot={space}/containers", *arguments),
        )

    container = buildah("from", "scratch").strip()
    archive = space / "base.tar"
    check("tar", "-C", base.root, "--exclude=./source", "-cf", archive, ".")
    buildah("add", "--quiet", container, archive, "/")
    buildah("config", f"--env=PATH={PATH}", container)
    buildah("commit", "--quiet", container, "localhost/base")
    buildah(
        *("build", "--isolation=chroot", "--network=host", "--pull-never", "--format=docker"),
        *("--build-arg=BASE=localhost/base", "--tag=localhost/acebase-ipc", PROJECT),
    )
    described = json.loads(buildah("inspect", "--type=image", "localhost/acebase-ipc"))
    mounted = buildah("mount", buildah("from", "--pull-never", "localhost/acebase-ipc").strip())
    files = System(space / "image")
    check("cp", "--archive", mounted.strip(), files.root)
    buildah("umount", "--all")
    added = sum(files.kib_of(each) for each in ("opt/acebase-ipc", STATE))
    return Image(described["Docker"]["config"], files, added)


def test_the_image_is_small(image: Image) -> None:
    assert image.added < MAX_ADDED_MIB * 1024
    assert not list(image.system.path("opt/acebase-ipc/bin").glob("pip*"))
    assert not image.system.path("source").exists()


def test_the_relay_runs_in_a_read_only_system(image: Image) -> None:
    user = int(image.config["User"].partition(":")[0])
    token = image.system.write(TOKEN, "secret\n")
    token.chmod(0o400)
    os.chown(token, user, user)
    kind, *health = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    command = [*image.config["Entrypoint"], *image.config["Cmd"]]

    with image.system.running(
        *image.as_user,
        *command,
        environment=image.environment,
        writable=list(image.config["Volumes"]),
    ) as relay:
        relay.wait_for("listening on")
        healthy = relay.run(*image.as_user, *health, environment=image.environment)
        asked = relay.run("python3", "-c", ASK)
        relay.stop(STOP_SECONDS)

    assert healthy.returncode == 0, healthy.stdout
    assert asked.stdout.split() == ["401", "200"] * 2, asked.stdout
    assert any(image.system.path(STATE).iterdir())
    assert "stopped" in relay.text
    assert not any(each in relay.text for each in ("Traceback", "plugin")), relay.text


def test_a_relay_that_does_not_answer_is_not_healthy(image: Image) -> None:
    with image.system.running("sh", "-c", "echo runs; exec sleep infinity") as idle:
        idle.wait_for("runs")
        healthy = idle.run(*image.config["Healthcheck"]["Test"][1:], environment=image.environment)

    assert healthy.returncode == 3, healthy.stdout


def test_a_relay_without_a_token_does_not_start(image: Image) -> None:
    image.system.path(TOKEN).unlink(missing_ok=True)

    with image.system.running(
        *image.as_user,
        *image.config["Entrypoint"],
        *image.config["Cmd"],
        environment=image.environment,
        writable=list(image.config["Volumes"]),
    ) as relay:
        relay.wait_for(f"acebase-ipc: .*{TOKEN}")
