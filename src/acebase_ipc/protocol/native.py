"""Decides whether functions run in the C extension or in pure Python.

The extension, ``acebase_ipc._speedups``, is optional: it is missing where it could not be compiled.
A function that it accelerates is decorated where it is defined, in Python. The Python code remains
the reference: the native function leaves to it what is not a common case.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Final, TypeVar

VARIABLE: Final = "ACEBASE_IPC_PURE"
"""The variable that turns the extension off, unless it is empty or 0."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def load() -> ModuleType | None:
    """Return the extension; ``None`` if it is turned off, or cannot be loaded."""
    if os.environ.get(VARIABLE, "0") not in {"", "0"}:
        return None
    try:
        return import_module("acebase_ipc._speedups")
    except ImportError:
        return None


_EXTENSION: Final = load()

IS_NATIVE: Final = _EXTENSION is not None
"""Whether the functions run in the extension."""


def accelerated(function: _Function) -> _Function:
    """Return the native function with the name of *function*, or *function* in pure Python."""
    if _EXTENSION is None:
        return function
    native: _Function = _EXTENSION.accelerate(function.__name__, function)
    return native
