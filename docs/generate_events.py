"""Prints events.rst, the table of log lines, from the source: make docs/events.rst"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

from acebase_ipc.relay import events as observer
from acebase_ipc.relay.events import DropReason, ExpiryReason, PeerEvent, RelayEvent, Severity

SOURCE = Path(observer.__file__).parents[1]

HEAD = """\
.. Made by generate_events.py from acebase_ipc.relay.events: make docs/events.rst

=========
Log lines
=========

What the relay logs, and what to do about it. ``<…>`` stands for what differs
from line to line. With ``--log-format json`` each event is an object with its
name as ``kind`` and these values as members.

Events
======

At most 60 lines a minute are written of each kind; the next period begins with
how many were left out. All events are counted, those without a line, too:
``server.observer.counts`` in Python.

.. list-table::
   :header-rows: 1
   :widths: 14 8 38 40

   * - RelayEvent
     - Level
     - Meaning and line
     - What to do
"""

OTHERS = """
Other lines
===========

.. list-table::
   :header-rows: 1
   :widths: 8 46 46

   * - Level
     - Line
     - What to do
"""

CLIENT = """
Lines of Python clients
=======================

Not the relay's, but those of programs with ``IPCClient`` or ``AceBasePeer``.

.. list-table::
   :header-rows: 1
   :widths: 8 46 46

   * - Level
     - Line
     - What to do
"""

TAIL = """
Lines of Twisted's own that matter:

* ``EMFILE encountered``, ``EMFILE session_timeout: Closed socket from <address>``: the
  process may not open more files. New connections are closed at once; those
  that are open go on. Raise ``LimitNOFILE`` (``ulimit -n``) above
  ``--max-connections``.
* ``Received SIGTERM, shutting down.``, ``Main loop terminated.``, ``Server Shut
  Down.``: the three lines of an end in good order.
* ``Unhandled Error``, ``Unhandled error in Deferred`` with a traceback: a defect
  that deserves a report.
"""

NOTHING = "Nothing."

ADVICE = {
    "Refused": (
        "401 and 403: a wrong token, or a web page that is not allowed. 409: a second"
        " process with the id. 500: a client with an impossible id. 503: a limit is"
        " reached: raise it, or find out who connects so often."
    ),
    "TokenGuessing": (
        "A client with an old token, or somebody who guesses. Its answers are delayed."
    ),
    "RequestTimeout": (
        "Nothing, if it is rare: a client was ended while it was sending, or somebody"
        " tries the port. Often: a slow network, see ``--request-timeout``."
    ),
    "PeerJoined": NOTHING,
    "PeerLeft": "Nothing, if somebody has ended it; else see *A client died* in operations.rst.",
    "PeerReplaced": (
        "Nothing, if the client has changed its network. Again and again: two processes"
        " with one id."
    ),
    "DialectDetected": NOTHING,
    "MessageDropped": (
        "Nothing, as a rule: peers go while somebody writes to them. If ``counts`` grows"
        " steadily: a client goes on addressing a peer that is gone."
    ),
    "ProtocolViolated": (
        "1009: a message above ``--max-payload``; clients of AceBase POST these, so ask"
        " who sends it. Else a client that breaks the protocol: mend it."
    ),
    "KeepaliveTimeout": (
        "The network or the machine of this client is gone, or the client stood still."
        " It connects again by itself if it lives."
    ),
    "EvictedForMemory": (
        "Look for the process that does not read. If nobody is at fault, raise ``--max-memory``."
    ),
    "SlowConsumer": (
        "This process does not read what it is sent: its event loop is blocked, or it"
        " cannot keep up. It connects again; restart it if its writes hang."
    ),
    "SessionSuspended": "Nothing: it is back within seconds, or ``SessionExpired`` follows.",
    "SessionResumed": NOTHING,
    "MasterAbsent": "Start the master. Its requests wait for it.",
    "SessionExpired": (
        "The process has not come back: see *A client died* in operations.rst. Start it"
        " again, and restart others whose writes hang."
    ),
    "IdConflict": (
        "Two processes have the same id, for the master ``role: 'master'``. End one of"
        " the two; their addresses tell where they run."
    ),
}
"""What to do about each event, by its class's name."""

LINES = {
    "acebase-ipc {version}: token {token}, maxPayload {max_payload} UTF-16 code units ({source})": (
        "Compare with what was meant, after each start."
    ),
    "listening on {where}": "Nothing: from now on clients are served there.",
    "{where} is open to the network without TLS": (
        "Listen on loopback (``interface=127.0.0.1``) or with TLS, unless a proxy or a"
        " private network protects it."
    ),
    "{where} is open to the network without a token": "Set a token.",
    "{path} holds a secret and is readable by everybody": "``chmod o= <path>``.",
    "cannot listen": "The port is taken or not allowed: the traceback tells which.",
    "the tokens were read again": "Nothing: SIGHUP was heard.",
    "the tokens stay as they are: {error}": (
        "The token file is broken: mend it and send SIGHUP again."
    ),
    "and {more} more times {kind}": (
        "Look at the lines of this kind before: something happens very often."
    ),
    "Clients connect over TLS, but maxPayload is {max_payload}: published AceBase clients"
    " cannot send larger values over TLS. Set max_payload to 16 MiB (--max-payload 16MiB).": (
        "Do that: else large writes end the processes that make them."
    ),
    "slower than possible: {missing} is not there": (
        "Nothing breaks. This Autobahn or Twisted is newer than this relay knows: report it."
    ),
    "{doing} failed": (
        "A defect of the relay: that peer is closed with 1011, the others are not"
        " concerned. Report it with the traceback."
    ),
    "receiving failed": (
        "A defect of the relay: that connection is closed, the others are not concerned."
        " Report it with the traceback."
    ),
    "writing failed": (
        "A defect of the relay, or no memory: the connection was ended, the others go on."
        " Report it with the traceback."
    ),
    "a task of each second failed": (
        "A defect of the relay: the other tasks go on, and so does this one in the next second."
        " Report it with the traceback."
    ),
    "max_session_queue exceeds max_backlog: a peer that resumes may be cut at once": (
        "Set ``--max-session-queue`` to at most ``--max-backlog``."
    ),
    "telling the relay that a connection is lost": "A defect of the relay: report it.",
    "an observer failed; its later failures are not logged": (
        "Your own observer has raised an exception; relaying is not concerned. Mend it."
    ),
}
"""What to do about each line that is not an event, by its format."""

CLIENT_LINES = {
    "{problem}": (
        "Nothing: there is no connection, for the reason in the line, and the client tries"
        " again. If it lasts, do what the line says."
    ),
    "the client gives up: {problem}": (
        "Do what the line says, and start the program again: the client does not connect any more."
    ),
    "retry_policy failed; the client connects again in 0.5 s": (
        "A defect of your program: fix the function that the traceback shows."
    ),
    "retry_policy returned {delay}, no delay; 0.5 s is used": (
        "A defect of your program: ``retry_policy`` returns seconds, 0 or more."
    ),
    "cannot ask who is connected: {reason}": (
        "Nothing: ``peers`` may lack some, until ``fetch_peers()`` is called or the client"
        " connects again."
    ),
    "a large message is lost: {reason}": (
        "It could not be downloaded. If it was too large, raise the client's ``max_message``."
    ),
    "not sent: {why}": "A greeting, a subscription or an answer did not reach the other processes.",
    "an answer was not sent: {why}": (
        "The process that asked gets a failure instead. If the answer was too large, answer"
        " with less, or raise ``--max-message``."
    ),
    "ignored: {what}": "Nothing: another process has sent a message without a meaning here.",
    "a callback failed": "A defect of your program: fix the callback that the traceback shows.",
    "a request of type {type} failed": (
        "The function that answers it has raised an exception; the other process was told."
    ),
    "work that was cancelled failed": (
        "The function that answers a request has raised an exception when it was cancelled,"
        " as the process that asked has left."
    ),
    "cannot read what the relay sent": (
        "A defect of the client, or of a server that is no relay: the connection was ended, and"
        " the client connects again. Report it with the traceback."
    ),
    "a connection did not end properly": (
        "A defect of the client or of Autobahn: report it with the traceback."
    ),
}
"""The same for the lines of clients, which are not the relay's."""

LEVELS = {"failure": "critical"}
"""The levels that methods of a Logger do not have as their names."""


def placeholders(text: str) -> str:
    """A format as a reader sees it: ``<reason>`` for ``{reason.value}``."""
    parts = []
    for literal, name, _, _ in Formatter().parse(text):
        parts.append(literal)
        if name is not None:
            parts.append(f"<{name.partition('.')[0]}>")
    return "".join(parts)


def events() -> Iterator[type[RelayEvent]]:
    """The events, in the order of the source."""
    for each in vars(observer).values():
        is_event = isinstance(each, type) and issubclass(each, RelayEvent)
        if is_event and each not in (RelayEvent, PeerEvent):
            yield each


def meaning(event: type[RelayEvent]) -> str:
    """What *event* means, and its line."""
    (first, *_) = (event.__doc__ or "").split("\n\n")
    text = f"{first} ``{placeholders(event.text)}``"
    reasons: type[DropReason] | type[ExpiryReason] | None = {
        "MessageDropped": DropReason,
        "SessionExpired": ExpiryReason,
    }.get(event.__name__)
    if reasons is not None:
        text += f" Reasons: {'; '.join(each.value for each in reasons)}."
    return text


def log_calls() -> Iterator[tuple[str, str]]:
    """The level and format of each line that the source writes otherwise."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    yield LEVELS.get(level, level), text


def row(*cells: str) -> str:
    """A row of a list-table."""
    first, *others = cells
    return "".join((f"   * - {first}\n", *(f"     - {each}\n" for each in others)))


def rows(advice: dict[str, str], calls: set[tuple[str, str]]) -> Iterator[str]:
    """A row for each line that *advice* is about, in its order."""
    for text, what_to_do in advice.items():
        for level in sorted(level for level, logged in calls if logged == text):
            yield row(level, f"``{placeholders(text)}``", what_to_do)


def document() -> str:
    """The whole document.

    :raises KeyError: for an event that nobody has described.
    :raises ValueError: for a line that nobody has described, and for a description of
        something that does not exist.
    """
    described: set[str] = set()
    lines = [HEAD]
    for event in events():
        name, severity = event.__name__, event.severity
        level = "no line" if severity is Severity.DEBUG else severity.value
        lines.append(row(f"``{name}``", level, meaning(event), ADVICE[name]))
        described.add(name)
    calls = set(log_calls())
    logged = {text for _, text in calls}
    known = LINES.keys() | CLIENT_LINES.keys()
    if logged != known:
        raise ValueError(f"not described: {logged - known}; superfluous: {known - logged}")
    if described != ADVICE.keys():
        raise ValueError(f"there is no such event any more: {ADVICE.keys() - described}")
    lines += [OTHERS, *rows(LINES, calls), TAIL, CLIENT, *rows(CLIENT_LINES, calls)]
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())
