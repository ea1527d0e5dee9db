"""New systems of Debian, made once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.packaging.system import System, skip_without

PROJECT = Path(__file__).resolve().parents[2]

NOT_SOURCES = (
    *("*.egg-info", "*.pyc", "*.so", ".*_cache", ".git", ".venv", "build", "dist"),
    "node_modules",
)


@pytest.fixture(scope="session")
def space() -> Iterator[Path]:
    """A directory of several gigabytes, which is removed in the end."""
    with TemporaryDirectory(prefix="acebase-ipc-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def new_system(space: Path) -> Callable[[str], System]:
    """Returns the new system of a release of Debian; it must not be changed, but copied."""
    skip_without()
    return cache(lambda release: System.make(release, space / release))


@pytest.fixture(scope="session")
def builder(space: Path, new_system: Callable[[str], System]) -> Callable[[str], System]:
    """Returns a system of a release in which /source is the project, and "make deb" works."""

    @cache
    def make(release: str) -> System:
        system = new_system(release).copy(space / f"{release}-builder")
        system.install("make", "python3-venv")
        shutil.copytree(PROJECT, system.path("source"), ignore=shutil.ignore_patterns(*NOT_SOURCES))
        return system

    return make
