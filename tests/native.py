"""The functions of which the C extension has a second version, and both versions of each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from acebase_ipc.protocol import frames
from tests.programs import missing

NAMES: Final = ("split", "text_frame", "text_frames", "unmask")


def in_python(name: str) -> Callable[..., Any]:
    """The function *name* of :mod:`acebase_ipc.protocol.frames`, in Python."""
    function: Callable[..., Any] = getattr(frames, name)
    return getattr(function, "__self__", function)  # what a native one leaves the rest to


def in_c(name: str) -> Callable[..., Any]:
    """The function *name* of :mod:`acebase_ipc.protocol.frames`, in C."""
    native: Callable[..., Any] = extension().accelerate(name, in_python(name))
    return native


def extension() -> ModuleType:
    """The extension; without it the test is skipped."""
    try:
        return import_module("acebase_ipc._speedups")
    except ImportError:
        missing("the C extension is not built; it needs a C compiler and the headers of Python")
