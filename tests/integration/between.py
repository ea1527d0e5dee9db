"""Stands between the two processes of a hand-over, and stops after a number of messages.

::

    python between.py <the predecessor's socket> <the successor's socket> <messages>

It listens at the second path, and passes messages on, with their descriptors, until so many have
passed. It says so on standard output, and waits for its end.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from acebase_ipc.server.handover.wire import Kind, Wire, close_all

ORDER = (
    Kind.SOCKETS,
    Kind.BUILT,
    Kind.CONNECTIONS,
    Kind.TAKEN,
    Kind.CONNECTION_STATE,
    Kind.STATE,
    Kind.READY,
    Kind.GO,
)
"""The messages, if all connections fit into one."""

OF_SUCCESSOR = {Kind.BUILT, Kind.TAKEN, Kind.READY}


def say(text: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(predecessor: str, successor: str, messages: str) -> None:
    """Pass messages on."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(successor)
    listening.listen()
    say("listening")
    near, _ = listening.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(predecessor)
    ends = {True: Wire(near, time.monotonic), False: Wire(far, time.monotonic)}
    for kind in ORDER[: int(messages)]:
        from_successor = kind in OF_SUCCESSOR
        received = ends[from_successor].receive(kind)
        ends[not from_successor].send(kind, received.content, received.descriptors)
        close_all(received.descriptors)
    say("passed on")
    sys.stdin.read()
    os._exit(0)


main(*sys.argv[1:])
