"""Renames an attribute throughout Autobahn, as a later version of it might.

``python -m tests.client.renaming NAME [pytest's arguments]`` runs tests in a process in
which Autobahn uses another name: methods are renamed, and so is every use of the name.
"""

from __future__ import annotations

import sys
from types import FunctionType

import pytest
from autobahn.twisted.websocket import WebSocketAdapterProtocol, WebSocketClientProtocol
from autobahn.websocket.protocol import WebSocketProtocol

KINDS = tuple(
    each
    for each in WebSocketClientProtocol.__mro__
    if each.__module__.startswith("autobahn.") and each is not object
)


def rename(name: str) -> None:
    """Let Autobahn call *name* something else.

    :raises LookupError: if it does not use the name.
    """
    uses = 0
    for kind in KINDS:
        if name in vars(kind):
            setattr(kind, f"{name}_renamed", vars(kind)[name])
            delattr(kind, name)
        for function in vars(kind).values():
            if isinstance(function, FunctionType) and name in function.__code__.co_names:
                uses += 1
                function.__code__ = function.__code__.replace(
                    co_names=tuple(
                        f"{each}_renamed" if each == name else each
                        for each in function.__code__.co_names
                    )
                )
    if not uses:
        raise LookupError(f"Autobahn does not use {name}")


if __name__ == "__main__":
    assert {WebSocketAdapterProtocol, WebSocketProtocol} < set(KINDS)
    rename(sys.argv[1])
    sys.exit(pytest.main(sys.argv[2:]))
