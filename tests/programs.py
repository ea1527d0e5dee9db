"""Programs that some tests need, and that are not installed everywhere."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test for this *reason*, or fail it where ``CI`` is set, which installs all."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(*names: str) -> str:
    """The path of the first of these programs that there is; :func:`missing` without one."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    for name in names:
        executable = shutil.which(name, path=path)
        if executable is not None:
            return executable
    missing(f"{' or '.join(names)} is not installed")
