"""Prints events.rst, the table of log lines, from the source: make docs/events.rst"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

from acebase_ipc.relay import events as relay_events
from acebase_ipc.relay.events import DropReason, ExpiryReason, PeerEvent, RelayEvent

SOURCE = Path(relay_events.__file__).parents[1]

HEAD = """\
.. Made by generate_events.py from acebase_ipc.relay.events: make docs/events.rst

=========
Log lines
=========

All lines that the relay logs, and what to do about them. ``<…>`` stands for a value
that varies. With ``--log-format json`` each line is a flat object:

* ``time`` (ISO 8601, UTC, with milliseconds), ``level``, ``message``;
* ``event``: the name of the event, or, for other lines, the part of the program that logs it;
* the values of the line as texts and numbers by their names, such as ``database``, ``peer`` and
  ``address``;
* ``traceback``, if something has failed.

Control characters in it are escaped, and texts are cut: one object is always one line.

Events
======

The relay writes at most 60 lines a minute for each kind of event; the next period
begins with the number of omitted lines. It counts all events, including those that
``--log-level`` hides: ``server.counts`` in Python.

.. list-table::
   :header-rows: 1
   :widths: 14 8 38 40

   * - Event
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

Programs that use ``IPCClient`` or ``AceBasePeer`` log these lines, not the relay.

.. list-table::
   :header-rows: 1
   :widths: 8 46 46

   * - Level
     - Line
     - What to do
"""

TAIL = """
Important log lines of Twisted:

* ``EMFILE encountered``, ``EMFILE recovery: Closed socket from <address>``: the process has
  reached its limit of open files. The relay closes new connections immediately; existing
  connections continue. Raise ``LimitNOFILE`` (``ulimit -n``) above ``--max-connections``.
* ``Received SIGTERM, shutting down.``: the first line of a normal shutdown; ``stopped``
  follows.
* ``twistd … starting up.``, ``reactor class``, ``… starting on …``, ``(… Port … Closed)``, ``Main
  loop terminated.``, ``Server Shut Down.``: with ``--log-level debug`` only, because the relay's
  own lines tell the same.
* ``Unhandled Error``, ``Unhandled error in Deferred`` with a traceback: a defect; please
  report it.
"""

NOTHING = "Nothing."

ADVICE = {
    "Refused": (
        "400: a malformed request; ``no PROXY header`` means that a client has connected to a"
        " ``haproxy:`` port without its proxy, or that the proxy does not send the header"
        " (``send-proxy``); ``it is no trusted proxy`` that its address is missing in"
        " ``--trust-proxy``. 401 and 403: a wrong token, or a web page that is not allowed. 409: a"
        " second process with the same id. 500: a client with an invalid id, or one whose locks"
        " were released (``ReturnRefused``). 503: a limit is reached: raise it, or find the client"
        " that connects so often."
    ),
    "TokenGuessing": (
        "A client uses an old token, or someone guesses tokens. The relay delays its answers."
    ),
    "RequestTimeout": (
        "Nothing, if it is rare: a client ended while it was sending, or a program probes"
        " the port. If frequent: a slow network, see ``--request-timeout``."
    ),
    "TLSFailed": (
        "``it speaks plain HTTP to a TLS port``: give that client ``ssl: true`` or ``wss://``."
        " ``it speaks TLS to a port without TLS``: the opposite. ``alert unknown ca``, ``alert"
        " certificate …``: the client does not trust the certificate. ``unsupported protocol``,"
        " ``no shared cipher``: it is too old. Other texts of OpenSSL: often a port scanner."
    ),
    "CertificateExpires": (
        "Renew the certificate. The relay uses the new files within seconds; it needs no restart."
    ),
    "CertificateInvalid": (
        "Renew the certificate, or check the clock of this machine. Clients that do not connect"
        " crash, or open the database without IPC; those that are connected stay."
    ),
    "PeerJoined": NOTHING,
    "PeerLeft": (
        "Nothing, if the process was stopped; otherwise see *A client crashed: why?* in hangs.rst."
    ),
    "PeerKicked": (
        "Somebody has closed this connection at the admin endpoint. A published client is back at"
        " once, unless its process was to end: then it is refused with 500."
    ),
    "PeerReplaced": (
        "Nothing, if the client has changed its network. If repeated: two processes use the same"
        " id."
    ),
    "DialectDetected": NOTHING,
    "ConnectionClosed": (
        "Usually nothing. The code is that of a close frame; 1006: there was none, the process or"
        " the network has ended. Without ``clean`` only one end has sent one."
    ),
    "MessageDropped": (
        "Usually nothing: peers leave while others send to them. If ``counts`` grows"
        " steadily: a client continues to address a peer that has left."
    ),
    "OversizedMessage": (
        "The value is lost, and the process that wrote it does not know. Write less at a time, or"
        " raise ``--max-message``."
    ),
    "ProtocolViolated": (
        "1009: a message above ``--max-payload``; AceBase clients POST such messages, so find"
        " the client that sends it. Otherwise: a client violates the protocol; fix the client."
    ),
    "KeepaliveTimeout": (
        "The network or the machine of this client has failed, or the client was blocked."
        " If it is still running, it reconnects automatically."
    ),
    "EvictedForMemory": (
        "Find the process that does not read. If all processes behave correctly, raise"
        " ``--max-memory``."
    ),
    "SlowConsumer": (
        "This process does not read the messages sent to it: its event loop is blocked, or it"
        " is too slow. It reconnects automatically, unless it held locks (``ReturnRefused``);"
        " restart it if its writes hang."
    ),
    "SessionSuspended": (
        "Nothing: ``SessionResumed`` follows within seconds, or ``SessionExpired``."
    ),
    "SessionResumed": NOTHING,
    "QueueDelivered": NOTHING,
    "MasterAbsent": (
        "Start the process with ``role: 'master'``. The messages to it are queued until it joins."
        " The line is written after 5 seconds without a master, and each minute."
    ),
    "SessionExpired": (
        "The process has not reconnected: see *A client crashed: why?* in hangs.rst. Start it"
        " again. The relay releases its locks (``LocksFreed``)."
    ),
    "IdConflict": (
        "Two processes have the same id; for the master, ``role: 'master'``. Stop one of"
        " the two; their addresses show where they run."
    ),
    "LocksFreed": (
        "Nothing for the other processes: they can have the locks now. Find out why this one"
        " ended, see *A client crashed: why?* in hangs.rst, and check the node at this path: a"
        " write that its process had begun stays half done."
    ),
    "ReturnRefused": (
        "Nothing, if its supervisor restarts the process: it has ended by itself. If it happens"
        " often, its network is interrupted for longer than ``--session-timeout``: raise that."
    ),
    "MasterRecovered": (
        "Nothing: the master was restarted, or its connection was lost, while locks were held or"
        " requests were open."
    ),
    "LostLockReleased": (
        "Nothing: the writes that have waited for this lock continue. If repeated: find out why"
        " the master loses its connection."
    ),
    "ReleaseFailed": "Nothing, if writes go on. If they hang, restart the master. It happens when a"
    " master was replaced without a word to the relay; if it is repeated, report it.",
    "LockHeldLong": (
        "Look at the process that holds the lock: it is blocked, or waits for something in a"
        " transaction. If it does not continue, restart it: the relay then releases its locks."
        " Otherwise the master takes the lock for expired after 120 s."
    ),
    "NotQuiet": (
        "That transaction may fail or hang, as its process may lose what it sends while the relay"
        " is away. Make transactions shorter, or raise ``--quiesce-timeout`` and the time in which"
        " the process manager lets the relay stop."
    ),
    "RequestOpenLong": (
        "Look at the master: its process is blocked, or holds the lock itself, or its answer was"
        " lost with a connection. If it does not answer, restart it: it is sent the request again."
    ),
    "TooManyRequests": (
        "A defect of this client: it does not wait for answers, or does not release its locks."
        " Fix it, and restart it."
    ),
    "StateRestored": (
        "Find out why the relay has ended: out of memory, or ``kill -9``. Its supervisor, and"
        " those of the workers, do the rest: see *If the relay crashes* in failures.rst."
    ),
}
"""What to do about each event, by its class's name."""

LINES = {
    (
        "acebase-ipc {version} ({code}): token {token}, maxPayload {max_payload} UTF-16 code units"
        " ({source})"
    ): (
        "Check after each start that these values are the intended ones. The code is ``C"
        " extension`` or ``pure Python``: see *The C extension* in performance.rst."
    ),
    "listening on {where}": "Nothing: the line names all ports.",
    "listening on {where}; the admin endpoint is {admin}": "Nothing: the line names all ports.",
    "the admin endpoint is {admin}": "Nothing: the line names all ports; the peers have none.",
    "{client} reads the live stream too slowly and is cut": (
        "Nothing: the relay does not wait for a reader of ``/api/v1/stream``. Ask for less of it,"
        " such as one database, or read it from a machine that is nearer."
    ),
    "ready": "Nothing: from now on the relay serves clients.",
    "stopped": "Nothing: every connection and every port is closed.",
    "{where} is open to the network without TLS": (
        "Listen on loopback (``interface=127.0.0.1``) or with TLS, unless a proxy or a"
        " private network protects the port."
    ),
    "{where} is open to the network without a token": "Set a token.",
    "{path} holds a secret and is readable by all users": "``chmod o= <path>``.",
    "{doing} failed": (
        "A defect of the relay: that peer is closed with 1011, other peers are not"
        " affected. Report it with the traceback."
    ),
    "receiving failed": (
        "A defect of the relay: that connection is closed, others are not affected."
        " Report it with the traceback."
    ),
    "writing failed": (
        "A defect of the relay, or no memory: that connection is closed, others continue."
        " Report it with the traceback."
    ),
    "a task of each second failed": (
        "A defect of the relay: the other tasks continue, and this one runs again in the next"
        " second. Report it with the traceback."
    ),
    "slower than possible: {missing} is missing": (
        "The relay works, but more slowly: this version of Autobahn or Twisted is newer than"
        " this relay supports. Report it."
    ),
    "a member of the cluster, as {relay}": "Nothing: the relay serves databases from now on.",
    "the lease is over: {databases} database(s) are not served until Redis answers": (
        "Redis did not answer for 0.7 of ``--cluster-lease``, or this process was suspended or"
        " busy for so long: connections are closed with 1012. Look at Redis, the network and the"
        " load."
    ),
    "other relays may serve {databases} database(s) of this one: they are forgotten": (
        "The relay was taken for dead: see the line before this one."
    ),
    "no answer of the cluster's store: {reason}": (
        "Look at Redis: databases without a home get 503, and the lease may end."
    ),
    "the cluster's store answers again": "Nothing.",
    "a client of {database} is not passed on: {reason}": (
        "The relay that serves the database cannot be reached at its ``--cluster-address``, or has"
        " another secret or certificate. The client has got 503."
    ),
    "passing on a request failed": "A defect of the relay: report it with the traceback.",
    "keeping the lease failed": (
        "A defect of the relay: restart it, and report it with the traceback."
    ),
    "{moved} of {databases} database(s) have moved to other relays": (
        "Nothing. A relay that drains tries again after 5 s to move the others."
    ),
    "{database} stays here: {reason}": "The relay that was to serve it cannot, for this reason.",
    "moving databases failed": "A defect of the relay: report it with the traceback.",
    "it is not known whether {database} was given away: {reason}": (
        "Nothing: the two relays find out as soon as Redis answers."
    ),
    "the state of {database} is not taken: {reason}": (
        "Use the same version for all relays of a cluster. The database stays where it is."
    ),
    "taking over a database failed": (
        "A defect: report it with the traceback. The database stays at the other relay."
    ),
    "the state of a database cannot be used": (
        "A defect of the relay: the database is served as after a crash. Report it with the"
        " traceback."
    ),
    "the journal of {database} cannot be used": (
        "A defect of the relay, or another version has written it: locks of lost workers stay until"
        " they expire. Report it with the traceback."
    ),
    "the server does not start: {error}": (
        "The port is in use or not permitted, or a file cannot be read: the line says which."
    ),
    "closing failed": "A defect of the relay: report it with the traceback.",
    "the tokens were read again": "Nothing: the relay received SIGHUP, or a file has changed.",
    "the certificates were read again": "Nothing: new connections use them.",
    "the configuration was read again": (
        "Nothing: the relay received SIGHUP, and has no file with tokens or certificates."
    ),
    "changed: {reloaded}": "Nothing: the new values of these options are in use.",
    "not changed, as it needs a restart: {others}": "Restart the relay to use the new values.",
    "nothing is reloaded: {error}": (
        "A file or an option is invalid: fix it and send SIGHUP again."
    ),
    "an observer failed; its later failures are not logged": (
        "Your own observer has raised an exception; the relay is not affected. Fix the observer."
    ),
    "closing a port failed": "A defect of the endpoint: report it with the traceback.",
    "the timer of each second failed": "A defect of the relay: report it with the traceback.",
    "{more} more lines of {kind} were left out": (
        "Check the earlier lines of this kind: the event is very frequent."
    ),
    "max_session_queue exceeds max_backlog: a peer that resumes its session may be"
    " disconnected at once": "Set ``--max-session-queue`` to at most ``--max-backlog``.",
    "max_memory is {memory}: half of the memory limit of the control group": (
        "Nothing. Set ``--max-memory`` if the rest is more than the process needs."
    ),
    "max_connections is {connections}, as the process may open only {files} files"
    " (ulimit -n, LimitNOFILE=)": (
        "Raise the hard limit of open files, or set ``--max-connections``."
    ),
    "max_connections is {connections}, but the process may open only {files} files"
    " (ulimit -n, LimitNOFILE=)": (
        "Raise the hard limit of open files above ``--max-connections``, or lower that."
    ),
    "{where} is open to every user without a token": (
        "Set a token, or a stricter mode for the Unix socket (``:mode=660``)."
    ),
    "Clients connect over TLS, but maxPayload is {max_payload}: the npm package acebase cannot"
    " send larger values over TLS. Set max_payload to 16 MiB (--max-payload 16MiB).": (
        "Do this: otherwise large writes crash the processes that make them."
    ),
    "the relay has crashed, but this system has no boot id: nothing is restored": (
        "``--state-dir`` is of use only on Linux. If writes hang, restart the master."
    ),
    "the journal in {directory} is not written any more: {reason}": (
        "The disk of ``--state-dir`` is full, or the relay has too many locks. The relay continues"
        " as without this option until it is restarted."
    ),
    "the state of the relay that stopped {age} s ago is restored: {peers} peer(s) of"
    " {databases} database(s)": (
        "Nothing: sessions, locks and requests go on, and clients are connected again."
    ),
    "the state in {path} is {age} s old: the sessions in it have expired": (
        "If writes hang, restart the master. Let the process manager start the relay sooner."
    ),
    "the state of the relay before this one cannot be used: {reason}; it is kept as {path}": (
        "If writes hang, restart the master. After a change of the version nothing else is needed;"
        " otherwise check the disk of ``--state-dir``."
    ),
    "stopping as soon as no transaction runs": "Nothing. A second signal ends the wait.",
    "the state is saved, {took:.2f} s after the stop began": "Nothing.",
    "the state cannot be saved in {directory}: {reason}": (
        "Make room on the disk of ``--state-dir``, or give the relay the right to write there. If"
        " writes hang, restart the master."
    ),
    "the events of the relay before this one are not known: {path}: {reason}": (
        "Nothing was lost but what ``acebase-ipc events`` and the status page show of the past."
        " If it comes again, check the disk of ``--state-dir``."
    ),
    "the events cannot be saved in {path}: {reason}": (
        "Make room on the disk of ``--state-dir``. The next relay shows no events of this one."
    ),
    "cannot read {path}: {reason}": (
        "Give the relay the right to read the file. If writes hang, restart the master."
    ),
    "cannot remove {path}: {reason}": "Remove the file before the relay stops or crashes.",
    "exporting the state failed": (
        "A defect of the relay: it stops without saving its state. Report it with the traceback."
    ),
    "adopting the state failed": (
        "A defect of the relay: it starts without the state. Report it with the traceback. If"
        " writes hang, restart the master."
    ),
    "saving the state failed": (
        "A defect of the relay: it stops without saving its state. Report it with the traceback."
    ),
    "a step of the admin endpoint failed": (
        "A defect of the relay: that request has no answer, others continue. Report it with the"
        " traceback."
    ),
    "a step of a connection failed": (
        "A defect of the relay: that connection is closed, others continue. Report it with the"
        " traceback."
    ),
    "the process {pid} has taken over": "Nothing: this process ends when it has answered.",
    "{connections} connections are taken over, in {pause} ms": (
        "Nothing: for that long no message was relayed. More than 1 s shows that the machine is"
        " too busy."
    ),
    "the relay is not handed over, and goes on: {reason}": (
        "Fix the reason, and try again. The lines of the other process before this one say more."
    ),
    "the relay is not handed over: {reason}": (
        "Find out who has asked for it: a process of another user."
    ),
    "no successor can be started: {reason}": (
        "Free memory or processes, or install the files that are missing, and try again."
    ),
    "the predecessor has ended before it has handed over anything": (
        "Find out why it was killed. This process starts like any other; clients connect again."
    ),
    "nothing can be handed over at {path}: {reason}": (
        "Give ``--take-over-from`` a path in a directory that the relay can write to. SIGUSR2 works"
        " nevertheless."
    ),
    "{path} is not written: {reason}": (
        "Let the relay write its pid file: the one that is there names its predecessor."
    ),
    **dict.fromkeys(
        ("the hand-over failed", "taking over failed"),
        "A defect of the relay: the old process goes on. Report it with the traceback.",
    ),
    **dict.fromkeys(
        (
            "releasing what is handed over failed",
            "going on with what is taken over failed",
            "going on with a connection failed",
            "passing on a message failed",
        ),
        "A defect of the relay: a client may have to connect again. Report it with the traceback.",
    ),
}
"""What to do about each line that is not an event, by its format."""

CLIENT_LINES = {
    "{problem}": (
        "Nothing: there is no connection, for the given reason, and the client tries again."
        " If it persists, do what the line says."
    ),
    "the client gives up: {problem}": (
        "Do what the line says, and restart the program: the client does not connect any more."
    ),
    "cannot ask who is connected: {reason}": (
        "Nothing: ``peers`` may be incomplete until ``fetch_peers()`` is called or the client"
        " reconnects."
    ),
    "a large message is lost: {reason}": (
        "It could not be downloaded. If it was too large, raise the client's ``max_message``."
    ),
    "not sent: {why}": "A greeting, a subscription or an answer did not reach the other peers.",
    "ignored: {what}": "Nothing: this peer does not understand a message of another process.",
    "a callback failed": "A defect of your program: fix the callback that the traceback shows.",
    "a request of type {type} failed": (
        "The function that answers it raised an exception; the other process received its text."
    ),
    "retry_policy failed; the client connects again in 0.5 s": (
        "A defect of your ``retry_policy``: fix it; the traceback shows where."
    ),
    "retry_policy returned {delay}, no delay; 0.5 s is used": (
        "A defect of your ``retry_policy``: it must return a number of seconds."
    ),
    "work that was cancelled failed": "A defect of your program: the traceback shows where.",
    "an answer was not sent: {why}": (
        "The process that asked gets a failure instead. If the answer was too large, answer"
        " with less, or raise ``--max-message``."
    ),
    "cannot read what the relay sent": (
        "A defect of the client, or of a server that is no relay: the connection was ended, and"
        " the client connects again. Report it with the traceback."
    ),
    "a connection did not end properly": (
        "A defect of the client or of Autobahn: report it with the traceback."
    ),
}
"""The same for the lines that clients log."""

LEVELS = {"failure": "critical"}
"""The levels of the Logger's methods that are not named after their level."""


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
    for each in vars(relay_events).values():
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
    """The level and format of each line that the source logs directly."""
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

    :raises KeyError: for an event without advice.
    :raises ValueError: for a line without advice, and for advice about a line or an event
        that does not exist.
    """
    described: set[str] = set()
    lines = [HEAD]
    for event in events():
        name, level = event.__name__, event.severity.value
        lines.append(row(f"``{name}``", level, meaning(event), ADVICE[name]))
        described.add(name)
    calls = set(log_calls())
    logged = {text for _, text in calls}
    known = LINES.keys() | CLIENT_LINES.keys()
    if logged != known:
        raise ValueError(f"without advice: {logged - known}; advice only: {known - logged}")
    if described != ADVICE.keys():
        raise ValueError(f"advice about no event: {ADVICE.keys() - described}")
    lines += [OTHERS, *rows(LINES, calls), TAIL, CLIENT, *rows(CLIENT_LINES, calls)]
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())
