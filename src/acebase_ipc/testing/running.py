"""A real relay for tests, in a process of its own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from acebase_ipc.server.config import AceBaseIPCServerConfig

START_SECONDS = 60.0
"""Seconds. A relay listens after about half of one; a loaded machine may take many."""

STOP_SECONDS = 15.0
"""Seconds. A relay stops within 5; a loaded machine may take longer."""


class RelayNotStarted(Exception):
    """A relay did not start; the reason is what its process wrote to stderr."""


@contextmanager
def running_relay(config: AceBaseIPCServerConfig | None = None) -> Iterator[str]:
    """Run a relay until the end of the block; gives its URL.

    The relay runs in a process of its own. So it makes no difference whether a reactor,
    an asyncio loop or nothing runs in the test's process; Twisted's reactor, which can run
    only once in a process and in one thread, stays with the tests. The process ends with
    the block, and also when the test's process is killed.

    >>> from urllib.request import urlopen
    >>> with running_relay() as url:
    ...     urlopen(url.replace("ws", "http", 1) + "/shop_data/clients").read()
    b'[]'

    :param config: default: a free port of loopback, and nothing but defaults.
    :raises RelayNotStarted: if it does not start.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "acebase_ipc.testing._process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with child, _ending(child):
        yield _start(child, config or AceBaseIPCServerConfig(port=0))


def _start(child: subprocess.Popen[bytes], config: AceBaseIPCServerConfig) -> str:
    """Give the process its configuration; returns the URL that it tells."""
    assert child.stdin is not None
    assert child.stdout is not None
    deadline = threading.Timer(START_SECONDS, child.kill)
    deadline.start()
    try:
        with suppress(BrokenPipeError):
            child.stdin.write(pickle.dumps(config))
            child.stdin.flush()
        url = child.stdout.readline().decode().strip()
    finally:
        deadline.cancel()
    if not url:
        raise RelayNotStarted("the relay's process wrote the reason to stderr")
    return url


@contextmanager
def _ending(child: subprocess.Popen[Any]) -> Iterator[None]:
    """End the process at the end of the block: closing its stdin asks it to stop."""
    try:
        yield
    finally:
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
