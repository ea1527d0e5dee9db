"""AceBase's envelopes: the messages between processes, JSON objects that begin with their type.

Measured with the npm package acebase 1.29.13, between two Node processes::

    {"type":"hello","from":"w1"}                       every process answers with its own hello
    {"type":"hello","from":"w2","to":"w1"}             the answer, which is not answered ...
    {"type":"subscribe","from":"w2","to":"w1",         ... and the subscriptions of w2
     "data":{"path":"users","event":"value"}}
    {"type":"subscribe","from":"w2","data":{…}}        a new subscription, for all
    {"type":"unsubscribe","from":"w2","data":{…}}      npm package acebase: goes on sending
    {"type":"event","from":"w1","to":"w2",             path: as subscribed
     "path":"users/*","event":"value",
     "data":{"path":"users/a",                         path: where it happened
             "val":{…},"previous":null,"context":{}}}
    {"type":"notification","from":"w1","data":…}
    {"type":"request","from":"w1","to":"[master]","id":"…","data":{"type":"kit.add",…}}
    {"type":"result","id":"…","ok":true,"from":"[master]","to":"w1","data":{"ok":true,"index":3}}
    {"type":"result","id":"…","ok":true,"from":"[master]","to":"w1",
     "data":{"ok":false,"reason":"Unknown ipc request \\"x\\""}}
    {"type":"result","id":"…","ok":false,"from":"…","to":"w1","reason":"…"}
    {"type":"bye","from":"w1"}                         w1 has closed its database

Besides these there are ``lock-request``, ``lock-result``, ``unlock-request``,
``unlock-result`` and ``move-lock-request``, between workers and the master only.

An envelope that the npm package acebase does not expect crashes its process: a second
result, a lock request to a worker, a subscription to an unknown kind of event. So the
envelopes rendered here are complete, and each is sent once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from acebase_ipc.errors import IPCError
from acebase_ipc.protocol import messages as protocol
from acebase_ipc.protocol.errors import InvalidClientId
from acebase_ipc.protocol.handshake import check_client_id
from acebase_ipc.protocol.values import decode, encode

MASTER: Final = protocol.MASTER.decode()
"""The id of the process that grants locks and allocates space."""


class InvalidEnvelope(IPCError, ValueError):
    """A message is not an envelope, or a member of it is missing or has the wrong type."""


@dataclass(frozen=True, slots=True)
class Hello:
    """*sender* is connected, and will raise events for the processes that answer.

    :ivar to: the process that it answers; ``None``: all processes are asked to answer.
    """

    sender: str
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    """*sender* has closed its database."""

    sender: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """One of the changes of a ``mutations`` event.

    :ivar target: the keys from the event's path to the changed value; an index of an
        array is an integer.
    :ivar value: the value now; ``None``: it was removed.
    :ivar previous: the value before; ``None``: there was none.
    """

    target: tuple[str | int, ...]
    value: Any
    previous: Any


@dataclass(frozen=True, slots=True)
class Event:
    """A change in the database.

    Values are plain JSON; :mod:`acebase_ipc.protocol.values` describes what happens to
    dates, references and binary data in them.

    :ivar subscription: the path subscribed to, wildcards and variables included.
    :ivar event: the kind of event subscribed to.
    :ivar path: where it happened: the subscribed path with its wildcards replaced. For
        ``child_…`` events the path of the child; for ``mutated`` that of the changed value,
        at any depth.
    :ivar value: the value now; ``None``: there is none. With ``mutations`` a list, best
        read as :attr:`mutations`. With ``notify_…`` always ``None``.
    :ivar previous: the value before. With ``mutations`` and ``notify_…`` always ``None``.
    :ivar context: what the writer attached with ``ref.context(…)``.
    :ivar sender: the id of the writing process.
    """

    subscription: str
    event: str
    path: str
    value: Any
    previous: Any
    context: Mapping[str, Any]
    sender: str

    @property
    def mutations(self) -> tuple[Mutation, ...]:
        """The changes of a ``mutations`` event; empty for any other event."""
        if self.event != "mutations" or not isinstance(self.value, list):
            return ()
        return tuple(
            Mutation(tuple(each["target"]), each.get("val"), each.get("prev"))
            for each in self.value
            if isinstance(each, dict) and isinstance(each.get("target"), list)
        )


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification of *sender*; typed values in *data* are decoded."""

    sender: str
    data: Any


@dataclass(frozen=True, slots=True)
class Request:
    """*sender* sends a request to the process *to*, and expects one result with this *id*."""

    sender: str
    to: str | None
    id: str
    data: Any

    @property
    def type(self) -> str:
        """The request's type, as AceBase's "Unknown ipc request" text names it."""
        return request_type(self.data)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of the request *id*.

    :ivar ok: whether it succeeded: then it has *data*, otherwise a *reason*.
    """

    sender: str
    id: str
    ok: bool
    data: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Other:
    """An envelope that does not concern a process without database files.

    It is about locks or the subscriptions of other processes, or its type is unknown.
    """

    type: str
    sender: str


Envelope = Hello | Bye | Event | Notification | Request | Result | Other


def parse(text: str) -> Envelope:
    """Parse an envelope.

    :raises InvalidEnvelope: for anything else. Ignore the message, as the npm package
        acebase does unless it crashes.
    """
    try:
        message = json.loads(text, parse_constant=_refuse)
        if not isinstance(message, dict):
            raise InvalidEnvelope("An envelope is an object")
        return _envelope(message)
    except InvalidEnvelope:
        raise
    except ValueError:
        raise InvalidEnvelope("An envelope is JSON") from None
    except RecursionError:
        raise InvalidEnvelope("An envelope is not nested that deep") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _envelope(message: dict[str, Any]) -> Envelope:
    sender = _peer_id(message, "from")
    match message.get("type"):
        case "hello":
            return Hello(sender, _recipient(message))
        case "bye":
            return Bye(sender)
        case "event":
            return _event(sender, message)
        case "notification":
            return Notification(sender, decode(message.get("data")))
        case "request":
            id, data = _text(message, "id"), decode(message.get("data"))
            return Request(sender, _recipient(message), id, data)
        case "result":
            return _result(sender, message)
        case str(other):
            return Other(other, sender)
    raise InvalidEnvelope("An envelope has a type")


def _event(sender: str, message: dict[str, Any]) -> Event:
    data = message.get("data")
    if not isinstance(data, dict):
        raise InvalidEnvelope("An event has data")
    context = data.get("context")
    event = _text(message, "event")
    # The npm package acebase sends values with some notify_ events, and not with others.
    silent = event.startswith("notify_")
    return Event(
        _text(message, "path"),
        event,
        _text(data, "path"),
        None if silent else data.get("val"),
        None if silent else data.get("previous"),
        context if isinstance(context, dict) else {},
        sender,
    )


def _result(sender: str, message: dict[str, Any]) -> Result:
    ok, reason = message.get("ok"), message.get("reason")
    if not isinstance(ok, bool):
        raise InvalidEnvelope("A result is ok or not")
    reason = reason if isinstance(reason, str) else ""
    return Result(sender, _text(message, "id"), ok, decode(message.get("data")), reason)


def _text(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise InvalidEnvelope(f"{name!r} is a text")
    return value


def _peer_id(message: dict[str, Any], name: str) -> str:
    try:
        return check_client_id(_text(message, name))
    except InvalidClientId:
        raise InvalidEnvelope(f"{name!r} is the id of a process") from None


def _recipient(message: dict[str, Any]) -> str | None:
    return _peer_id(message, "to") if message.get("to") is not None else None


def request_type(data: Any) -> str:
    """Return the type of a request's *data*, as AceBase's "Unknown ipc request" text names it."""
    kind = data.get("type") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else "undefined"


def hello(sender: str, to: str | None = None) -> str:
    """Return a greeting to all processes, which then answer; or an answer to the process *to*."""
    return _render("hello", sender, to)


def bye(sender: str) -> str:
    """Return the message that tells all processes that *sender* is leaving."""
    return _render("bye", sender)


def subscribe(sender: str, path: str, event: str, to: str | None = None) -> str:
    """Return a request to all processes, or to *to*, for events of a kind at a path."""
    return _render("subscribe", sender, to, data={"path": path, "event": event})


def unsubscribe(sender: str, path: str, event: str) -> str:
    """Return a request to all processes to send no more of these events."""
    return _render("unsubscribe", sender, data={"path": path, "event": event})


def notification(sender: str, data: Any, to: str | None = None) -> str:
    """Return a notification to all processes, or to *to*.

    :raises TypeError, ValueError: if *data* cannot be encoded (:func:`.values.encode`).
    """
    return _render("notification", sender, to, data=encode(data))


def request(sender: str, to: str, id: str, data: Any) -> str:
    """Return a request to the process *to*; raises like :func:`notification`."""
    return _render("request", sender, to, id=id, data=encode(data))


def result(sender: str, to: str, id: str, data: Any) -> str:
    """Return the answer to the request *id* of *to*; raises like :func:`notification`."""
    return _render("result", sender, to, id=id, ok=True, data=encode(data))


def failure(sender: str, to: str, id: str, reason: str) -> str:
    """Return a failure of the request *id* of *to*: its ``sendRequest`` rejects with *reason*."""
    return _render("result", sender, to, id=id, ok=False, reason=reason)


def unknown(sender: str, to: str, id: str, kind: str) -> str:
    """Return the answer to a request of an unknown type, with the npm package's text."""
    return result(sender, to, id, {"ok": False, "reason": unknown_reason(kind)})


UNKNOWN_REQUEST: Final = 'Unknown ipc request "'
"""The start of the npm package's text about a request of an unknown type."""


def unknown_reason(kind: str) -> str:
    """Return the npm package's text about a request of an unknown type."""
    return f'{UNKNOWN_REQUEST}{kind}"'


def _render(kind: str, sender: str, to: str | None = None, **members: Any) -> str:
    # The type is first and the sender early: relays detect an envelope by them.
    message = {"type": kind, "from": sender, **({} if to is None else {"to": to}), **members}
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        # A lone surrogate needs an escape, as JSON.stringify writes it, too.
        return json.dumps(message, separators=(",", ":"))
    return text
