"""Defaults that depend on what the system grants the process: memory and open files."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from acebase_ipc.relay.limits import MIB, Limits
from acebase_ipc.server.process import OTHER_FILES

MEMORY_SHARE: Final = 2
"""Messages may take one of so many parts of the memory limit; the rest is for Python, TLS, sockets
and garbage."""

_UNLIMITED: Final = 2**60
"""Bytes. Version 1 writes a limit that is not set as about 2**63."""


def lowered_defaults(root: Path = Path("/")) -> dict[str, int]:
    """Return the defaults of the limits that the system makes lower than they are otherwise.

    :param root: where ``/proc`` and ``/sys`` are.
    """
    usual = Limits()
    lowered = {}
    memory = memory_limit(root)
    if memory is not None and memory // MEMORY_SHARE < usual.max_memory:
        lowered["max_memory"] = max(MIB, memory // MEMORY_SHARE)
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files - OTHER_FILES < usual.max_connections:
        lowered["max_connections"] = max(1, files - OTHER_FILES)
    return lowered


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that the process's control group may use; ``None``: no limit.

    Each group is limited by those above it, too. In a container the path of the group may be that
    on its host: then the group is the topmost one that is to be seen.
    """
    try:
        lines = os.fsdecode((root / "proc/self/cgroup").read_bytes()).splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        found += [_read_limit(each / file) for each in (group, *group.parents) if _is_in(each, top)]
    limits = [each for each in found if each is not None]
    return min(limits, default=None)


def _is_in(group: Path, top: Path) -> bool:
    return group.is_relative_to(top) and ".." not in group.parts


def _read_limit(file: Path) -> int | None:
    """Return the limit in *file*, ``None`` if there is none."""
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):  # "max" is no number
        return None
    return None if limit >= _UNLIMITED else limit
