"""New systems of Debian in directories, made with debootstrap, in which commands run as root.

Commands run in namespaces of their own: what is mounted for them is gone when they end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 600
"""A command may download packages, perhaps over a slow connection."""

AUTHORITIES = "etc/ssl/authorities.pem"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PACKAGES = {"ip": "iproute2", "unshare": "util-linux"}
"""The packages of programs that have other names."""

PREPARE = """
set -e
mount --bind "$0" "$0"
mount --bind /dev "$0/dev"
for each in $2; do mount --bind "$0/$each" "$0/$each"; done
if [ "$1" = ro ]; then mount -o remount,bind,ro "$0"; fi
mount -t proc proc "$0/proc"
shift 2
exec chroot "$0" "$@"
"""
"""A shell's lines before the command: $0 is the system, $2 what can be written although the rest
is read only."""


NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")

LOOPBACK = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""What a command is run with to find loopback in a network of its own."""


def skip_without(*programs: str) -> None:
    """Skip the test if this machine cannot make a system, or lacks one of *programs*."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a new system of Debian")
    for program in ("debootstrap", "ip", "unshare", *programs):
        if shutil.which(program) is None:
            package = PACKAGES.get(program, program)
            pytest.skip(f"{program} is not installed; on Debian:  apt install {package}")


class System:
    """A system of Debian.

    :ivar root: the directory that holds it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def make(cls, release: str, root: Path) -> System:
        """Return a new system with no package but those that Debian requires.

        It trusts the certificate authorities that this machine trusts.
        """
        check("debootstrap", "--variant=minbase", release, root)
        system = cls(root)
        trusted = ssl.get_default_verify_paths().cafile
        if trusted is not None:
            system.write(AUTHORITIES, Path(trusted).read_text(encoding="utf-8"))
            system.write("etc/pip.conf", f"[global]\ncert = /{AUTHORITIES}\n")
        # Nothing is started when a package is installed.
        system.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n").chmod(0o755)
        return system

    def copy(self, root: Path) -> System:
        """Return a copy of this system in the directory *root*."""
        check("cp", "--archive", "--reflink=auto", self.root, root)
        return System(root)

    def path(self, inside: str | Path) -> Path:
        """Return where the file *inside* of the system is on this machine."""
        return self.root / str(inside).lstrip("/")

    def write(self, inside: str | Path, text: str) -> Path:
        """Write a file, and return where it is on this machine."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Return what a command in the system wrote; the test fails with it if it fails."""
        return check(*NAMESPACES, *self._prepared(arguments), environment=environment)

    @contextmanager
    def running(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        writable: Sequence[str] | None = None,
    ) -> Iterator[Running]:
        """Run a command as the first process of its namespaces, with a network of its own.

        :param writable: the directories that it can write, in a system that is read only
            otherwise; ``None`` if it can write everywhere.
        """
        with subprocess.Popen(
            [*NAMESPACES, "--net", *LOOPBACK, *self._prepared(arguments, writable)],
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield Running(self, process)
            finally:
                process.kill()  # and with it, all that runs in the namespaces

    def _prepared(
        self, arguments: Sequence[str], writable: Sequence[str] | None = None
    ) -> list[str]:
        mode = "rw" if writable is None else "ro"
        script = [PREPARE, str(self.root), mode, " ".join(writable or ())]
        return ["sh", "-c", *script, *arguments]

    def install(self, *packages: str) -> str:
        """Install packages of Debian, or files that begin with a slash."""
        return self.run(
            *("apt-get", "--yes", "--quiet", "--no-install-recommends", "install"),
            *packages,
            environment={"DEBIAN_FRONTEND": "noninteractive"},
        )

    def kib_of(self, inside: str) -> int:
        """Return how much disk space a directory takes with all that is in it, in KiB."""
        return int(check("du", "-sk", self.path(inside)).split()[0])


class Running:
    """A command that runs in a system.

    :ivar lines: what it has written so far.
    """

    def __init__(self, system: System, process: subprocess.Popen[str]) -> None:
        self._system = system
        self._process = process
        self.lines: list[str] = []

    def wait_for(self, pattern: str) -> None:
        """Wait until it has written a line that *pattern* is found in."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if re.search(pattern, line):
                return
        pytest.fail(f"it ended without a line {pattern!r}:\n{self.text}")

    @property
    def text(self) -> str:
        """All that it has written so far."""
        return "".join(self.lines)

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run another command in its namespaces."""
        return _complete(
            *("nsenter", "--all", f"--target={self._child()}"),
            *("chroot", str(self._system.root), *arguments),
            environment=environment,
        )

    def stop(self, seconds: float) -> int:
        """Send SIGTERM, and return its exit status; negative for a signal.

        :raises subprocess.TimeoutExpired: if it does not end within *seconds*.
        """
        os.kill(self._child(), signal.SIGTERM)
        text, _ = self._process.communicate(timeout=seconds)
        self.lines.append(text)
        return self._process.returncode

    def _child(self) -> int:
        pid = self._process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


def check(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Return what a command wrote; the test fails with it if the command fails."""
    done = _complete(*command, environment=environment)
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def _complete(
    *command: str | Path, environment: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command],
        env=_environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(more or {})}
