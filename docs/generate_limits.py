"""Prints limits.rst, the table of limits, from acebase_ipc.relay.limits: make docs/limits.rst"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields

from acebase_ipc.http.channel import MAX_HEAD, MAX_HEADER_LINES
from acebase_ipc.protocol.handshake import MAX_CLIENT_ID, MAX_DATABASE_NAME, MIN_CLIENT_ID
from acebase_ipc.relay.limits import (
    KIB,
    Limits,
    describe_limits,
    format_size,
)
from acebase_ipc.relay.memory import ENTRY_OVERHEAD, MESSAGE_OVERHEAD
from acebase_ipc.relay.store import ENTRY_SIZE
from acebase_ipc.websocket.incoming import MAX_FRAGMENTS

HEAD = """\
.. Made by generate_limits.py from acebase_ipc.relay.limits: make docs/limits.rst

======
Limits
======

Every bound has one name. It is an option of ``twistd acebase-ipc`` and, with
underscores, a field of ``Limits`` in Python: ``--max-message 32MiB`` is
``AceBaseIPCServerConfig(limits=Limits(max_message=32 * 2**20))``. Options take
sizes as numbers or with a unit: ``16384``, ``16KiB``, ``16MiB``, ``1GiB``.

.. list-table::
   :header-rows: 1
   :widths: 20 24 14 12 24 30

   * - Name and option
     - What it bounds
     - Unit
     - Default
     - When exceeded
     - Reason
"""

IN_QUEUE = MESSAGE_OVERHEAD + ENTRY_OVERHEAD

TAIL = f"""
A message of any legal size is accepted while nothing else waits, even if it
alone exceeds a bound on waiting messages.

``max_backlog``, ``max_session_queue`` and ``max_memory`` count the memory that messages use, not
only their text: a message in a queue counts about {IN_QUEUE} bytes more, a recipient of a
stored message {ENTRY_SIZE} bytes. So 10,000 messages of 10 bytes count about
{10_000 * (10 + IN_QUEUE) / 1e6:.1f} MB.

Fixed by the protocol
=====================

* A database's name has 1 to {MAX_DATABASE_NAME} characters and no control characters.
  Anything else is answered with 400.
* A peer's id has {MIN_CLIENT_ID} to {MAX_CLIENT_ID} characters, no ``;`` and no control characters.
  Anything else is answered with 500, the status that clients expect.
* A WebSocket message has at most {MAX_FRAGMENTS} fragments. One with more closes the
  connection with 1009.
* A request line and its headers have at most {MAX_HEAD // KIB} KiB and {MAX_HEADER_LINES} lines.
  More is answered with 431.

The effect of these bounds on the wire: `protocol.rst <protocol.rst>`_.
"""


def spaced(text: str) -> str:
    """Return *text* with its sizes as they are written in a text: ``16 MiB``."""
    return re.sub("([0-9])([KMG]iB)", r"\1 \2", text)


def sentence(text: str) -> str:
    """Return *text* with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def rows() -> Iterator[tuple[str, ...]]:
    """Yield the cells of each limit, in the order of the code."""
    limits = describe_limits()
    for each in fields(Limits):
        limit = limits[each.name]
        default = spaced(limit.default_text or format_size(each.default))
        yield (
            f"``{each.name}`` ``--{each.name.replace('_', '-')}``",
            limit.summary,
            limit.unit,
            default,
            limit.exceeded,
            limit.reason,
        )


def document() -> str:
    """Return the whole document."""
    lines = [HEAD]
    for row in rows():
        for number, cell in enumerate(row):
            lines.append(f"   {'  ' if number else '* '}- {sentence(cell)}\n")
    return "".join((*lines, TAIL))


if __name__ == "__main__":
    sys.stdout.write(document())
