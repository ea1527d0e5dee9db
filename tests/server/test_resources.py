"""Defaults that depend on what the system grants the process."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from acebase_ipc.relay.limits import GIB, MIB
from acebase_ipc.server.resources import lowered_defaults, memory_limit

UNLIMITED_V1 = "9223372036854771712"


def system(root: Path, groups: str, **limits: str) -> Path:
    """Make the files of a system below *root*; the names of *limits* are paths."""
    files = {"proc/self/cgroup": groups, **limits}
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/", {f"{V2}/memory.max": "536870912"}, 512 * MIB),
        ("0::/", {f"{V2}/memory.max": "max"}, None),
        ("0::/", {}, None),
        (
            "0::/system.slice/relay.service",
            {
                f"{V2}/system.slice/relay.service/memory.max": "max",
                f"{V2}/system.slice/memory.max": "1048576000",
                f"{V2}/memory.max": "max",
            },
            1_048_576_000,
        ),
        ("0::/a/b", {f"{V2}/a/memory.max": "3000000", f"{V2}/a/b/memory.max": "2000000"}, 2000000),
        # of a container with version 1, whose path is that on the host
        (
            "12:cpu,cpuacct:/docker/1f\n5:memory:/docker/1f",
            {f"{V1}/memory.limit_in_bytes": "268435456"},
            256 * MIB,
        ),
        ("5:memory:/", {f"{V1}/memory.limit_in_bytes": UNLIMITED_V1}, None),
        ("5:hugetlb,memory:/a", {f"{V1}/a/memory.limit_in_bytes": "1000000"}, 1000000),
        # both versions, of which the first has the controller
        ("5:memory:/a\n0::/a", {f"{V1}/a/memory.limit_in_bytes": "1000000"}, 1000000),
        ("0::/../../other", {f"{V2}/memory.max": "max", "sys/other/memory.max": "1000000"}, None),
        ("0::/a:b", {f"{V2}/a:b/memory.max": "1000000"}, 1000000),
    ],
)
def test_the_memory_limit(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int | None
) -> None:
    assert memory_limit(system(tmp_path, groups, **limits)) == expected


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None


@pytest.mark.parametrize(
    ("memory", "files", "expected"),
    [
        ("max", resource.RLIM_INFINITY, {}),
        (f"{4 * GIB}", 32768, {}),
        (f"{2 * GIB}", 20_100, {}),
        (f"{256 * MIB}", 4096, {"max_memory": 128 * MIB, "max_connections": 3996}),
        ("1000", 64, {"max_memory": MIB, "max_connections": 1}),
    ],
)
def test_defaults_are_lowered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
    files: int,
    expected: dict[str, int],
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, files))

    assert lowered_defaults(system(tmp_path, "0::/", **{f"{V2}/memory.max": memory})) == expected


def test_the_name_of_a_group_can_be_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff")
    system(tmp_path, "", **{f"{V2}/{name}/memory.max": "3000000"})
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/a\xff\n")

    assert memory_limit(tmp_path) == 3_000_000
