"""Talks to the admin endpoint of a relay."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, LineTooLong
from typing import Any, Final
from urllib.parse import urlencode

import click

from acebase_ipc.cli.output import Failed, Unreachable, one_line, waiting
from acebase_ipc.cli.place import TIMEOUT, Place, find_place, parse_place, quoted
from acebase_ipc.cli.shape import Schema, answer_schema, difference, event_schema
from acebase_ipc.http.tokens import read_token_file
from acebase_ipc.relay.limits import MIB

TOKEN_VARIABLE: Final = "ACEBASE_IPC_ADMIN_TOKEN"

ANSWER_TIMEOUT: Final = 30.0
"""Seconds for the rest of an answer that has begun."""

MAX_LINE: Final = 16 * MIB
"""Bytes of a line of the stream."""

MAX_ANSWER: Final = 256 * MIB
"""Bytes of an answer; 10,000 peers need 6 MiB."""

STREAM_TIMEOUT: Final = 45.0
"""Seconds without anything in a stream; the relay sends a comment every 15."""


class NotFound(Failed):
    """The relay does not know the database or the peer."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event of the stream.

    :ivar kind: ``event``, ``message`` or ``status``.
    """

    kind: str
    data: dict[str, Any]


class Admin:
    """The admin endpoint that a command uses; found when it is first needed.

    :param url: where it is; default: the first of :data:`DEFAULT_PLACES` that answers.
    :param token_file: a file with its token; default: :data:`TOKEN_VARIABLE`.
    :param timeout: seconds for an answer to begin.
    """

    def __init__(self, url: str | None, token_file: str | None, timeout: float = TIMEOUT) -> None:
        self._url = url
        self._token_file = token_file
        self._timeout = timeout
        self._found: Place | None = None

    @property
    def place(self) -> Place:
        """Where it is.

        :raises Unreachable: if none of the default places answers.
        """
        if self._found is None:
            self._found = parse_place(self._url) if self._url else find_place()
        return self._found

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return what ``/api/v1/<path>`` answers.

        :raises Failed: if it refuses, or cannot be reached.
        """
        return self._call("GET", path, query, None)

    def post(
        self, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Return the answer to *body*, posted to ``/api/v1/<path>``.

        :param timeout: seconds for an answer to begin, if not those of this object.
        :raises Failed: if it refuses, or cannot be reached.
        """
        return self._call("POST", path, {}, json.dumps(body or {}), timeout)

    def database(self, name: str) -> dict[str, Any]:
        """Return all about the database with the wire name *name*.

        :raises NotFound: if it has no peers; the text names what may be meant.
        """
        try:
            return self.get(f"databases/{quoted(name)}")
        except NotFound:
            raise self.unknown_database(name) from None

    def unknown_database(self, name: str) -> NotFound:
        """Return the error for a database that the relay does not know."""
        known = [each["name"] for each in self.get("databases")["databases"]]
        if f"{name}_data" in known:
            return NotFound(
                f"the relay has no database {name!r}, but {name + '_data'!r}: AceBase's {name} is"
                f" {name}_data on the wire"
            )
        there = f"it has {', '.join(map(repr, known[:5]))}" if known else "nobody is connected"
        return NotFound(f"the relay has no database {name!r}: {there}")

    def stream(self, last_event: int | None = None, **query: Any) -> Iterator[StreamEvent]:
        """Yield what happens, until the relay ends the stream.

        :param last_event: the id of an event, to begin with those after it.
        :raises Failed: if it refuses, or cannot be reached, or when it ends the stream.
        """
        with waiting(f"connecting to {self.place.text} ..."):
            headers = {} if last_event is None else {"Last-Event-ID": str(last_event)}
            connection, response = self._request(
                "GET", "stream", query, None, STREAM_TIMEOUT, headers
            )
        try:
            self._check(response, "stream", lambda: _read(response).decode("utf-8", "replace"))
            for kind, data in _events(response):
                event = _parse(data)
                yield StreamEvent(kind, self._expect(event, event_schema(kind)))
        except TimeoutError:
            raise Unreachable(
                f"nothing came from {self.place.text} for {STREAM_TIMEOUT:g} s"
            ) from None
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        raise Unreachable(
            f"{self.place.text} has ended the stream: the relay was stopped, or this command"
            " did not read fast enough"
        )

    def _call(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: str | None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        with waiting(f"waiting for {self.place.text} ..."):
            connection, response = self._request(
                method, path, query, body, timeout or self._timeout, {}
            )
            try:
                text = _read(response).decode("utf-8", "replace")
            except (OSError, HTTPException) as error:
                raise Unreachable(
                    f"{self.place.text} broke off its answer: {one_line(error)}"
                ) from None
            finally:
                connection.close()
        self._check(response, path, lambda: text)
        answer = _parse(text)
        if answer is None:
            raise self._no_endpoint(response.status)
        return self._expect(answer, answer_schema(method, path))

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: str | None,
        timeout: float,
        headers: dict[str, str],
    ) -> tuple[HTTPConnection, HTTPResponse]:
        connection = self.place.connection(timeout)
        target = f"/api/v1/{path}" + (
            f"?{urlencode(query, errors='surrogateescape')}" if query else ""
        )
        headers = {**headers, "Accept": "application/json, text/event-stream"}
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        if method == "POST":
            headers |= {"X-AceBase-IPC": "1", "Content-Type": "application/json"}
        try:
            connection.request(method, target, body, headers)
            return connection, connection.getresponse()
        except ssl.SSLError as error:
            connection.close()
            raise Unreachable(
                f"TLS with {self.place.text} failed: {error.reason or error}"
            ) from None
        except PermissionError:
            connection.close()
            raise Unreachable(
                f"{self.place.text} may be used by the relay's own user only: run the command as"
                " that user, or as root"
            ) from None
        except (OSError, HTTPException) as error:
            connection.close()
            reason = getattr(error, "strerror", None) or one_line(error)
            raise Unreachable(
                f"no answer from {self.place.text} ({reason}): is the relay running, with --admin?"
            ) from None

    def _token(self) -> str | None:
        if self._token_file is not None:
            return read_token_file(self._token_file)[0].token.decode()
        return os.environ.get(TOKEN_VARIABLE) or None

    def _check(self, response: HTTPResponse, path: str, read: Any) -> None:
        status = response.status
        if status == 200:
            return
        answer = _parse(read())
        if answer is None or not isinstance(answer.get("error"), str):
            raise self._no_endpoint(status)
        reason = one_line(Exception(answer["error"]))
        if status == 401:
            raise Failed(
                f"{self.place.text} does not accept the token ({TOKEN_VARIABLE}, --token-file)"
                if self._token()
                else f"{self.place.text} requires a token: name a file that holds it with"
                f" --token-file, or set {TOKEN_VARIABLE}"
            )
        if status == 403:
            raise Failed(f"{self.place.text} refuses this: {reason}{_advice(reason)}")
        if status == 404:
            raise NotFound(reason)
        raise Failed(f"{self.place.text} answered {status}: {reason}")

    def _expect(self, answer: Any, schema: Schema) -> dict[str, Any]:
        """Return an *answer* that is as *schema* says.

        :raises Failed: if it is not.
        """
        wrong = difference(answer, schema)
        if wrong is not None:
            raise Failed(
                f"the relay at {self.place.text} answered with something else than this command"
                f" expects: {one_line(Exception(wrong))}. Are they of different versions?"
            )
        checked: dict[str, Any] = answer
        return checked

    def _no_endpoint(self, status: int) -> Failed:
        return Failed(
            f"{self.place.text} is no admin endpoint of a relay (it answered {status}): name the"
            " place that the relay was given with --admin, not the port of the peers"
        )


pass_admin = click.make_pass_decorator(Admin)


def _advice(reason: str) -> str:
    if "host name" in reason:
        return ". Without a token it answers only to 127.0.0.1 and localhost: use one in --admin"
    return ""


def _read(response: HTTPResponse) -> bytes:
    """Return the body of an answer.

    :raises OSError: if it takes too long, or is too large.
    :raises HTTPException: if it is not complete.
    """
    pieces: list[bytes] = []
    size = 0
    end = time.monotonic() + ANSWER_TIMEOUT
    while piece := response.read1(MIB):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER:
            raise OSError(f"more than {MAX_ANSWER // MIB} MiB have come")
        if time.monotonic() > end:
            raise TimeoutError("timed out")
    if response.length:
        raise IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _events(response: HTTPResponse) -> Iterator[tuple[str, str]]:
    """Yield the kinds and data of server-sent events (HTML, section 9.2.6)."""
    kind, data = "message", ""
    for line in map(_decode, iter(lambda: response.readline(MAX_LINE + 1), b"")):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line:
            if name == "event":
                kind = value
            elif name == "data":
                data += value
            continue
        if data:
            yield kind, data
        kind, data = "message", ""


def _decode(line: bytes) -> str:
    if len(line) > MAX_LINE:
        raise LineTooLong("event")
    return line.decode("utf-8", "replace").rstrip("\r\n")
