"""The middle steps of ``doctor``: the WebSocket's handshake, and what proxies make of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from http.client import HTTPException
from typing import Final
from urllib.parse import unquote

from acebase_ipc.cli.diagnosis.findings import Finding, error, ok, skipped, warning, without_ipc
from acebase_ipc.cli.diagnosis.probes import (
    NO_HTTP,
    Answer,
    Target,
    Welcome,
    handshake,
    speaks_tls,
)
from acebase_ipc.cli.output import one_line
from acebase_ipc.cli.output import size as show_size
from acebase_ipc.relay.limits import DEFAULT_MAX_PAYLOAD_TLS

_UPGRADE: Final = (
    "let the proxy on the way pass on Upgrade and Connection; with nginx: proxy_http_version 1.1;"
    ' proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
)
_REFUSALS: Final = {
    400: "check the name of the database",
    404: "check the path of the URL: is the relay mounted there, and does the proxy keep the path?",
    409: "relay and command are of incompatible versions: upgrade the older",
    500: "see the log of the relay, or of the proxy",
    502: "the proxy cannot reach the relay: start the relay, and check the proxy's upstream",
    503: "the relay, or a proxy, takes no more clients now: see the relay's log",
    504: "the proxy cannot reach the relay: start the relay, and check the proxy's upstream",
}


def examine_handshake(target: Target) -> Iterator[Finding]:
    """Yield whether a client becomes a peer, and whether its request arrives unchanged."""
    sent = f"doctor[+]%2B{secrets.token_hex(8)}"
    try:
        answer = handshake(target, sent, True, target.token)
    except NO_HTTP as fault:
        yield _no_answer(target, fault)
        return
    if isinstance(answer, Answer):
        yield _refusal(target, answer)
        if answer.status in (401, 403):
            yield without_ipc()
        return
    if not answer.accepted:
        yield error(
            "upgrade",
            "the answer belongs to another handshake (Sec-WebSocket-Accept differs)",
            "let no cache or proxy answer for the relay",
        )
        return
    if answer.max_payload is None:
        yield error(
            "upgrade",
            "the WebSocket opened, but no welcome came: this is no relay",
            "check host, port and path of the URL",
        )
        return
    yield ok("upgrade", f"the relay has accepted a WebSocket{_proxy(answer.headers)}")
    yield from _examine_token(target)
    yield _examine_query(answer, unquote(sent))
    yield _examine_max_payload(target, answer.max_payload)


def _no_answer(target: Target, fault: Exception) -> Finding:
    if not target.url.secure and not target.url.socket and speaks_tls(target):
        return error(
            "upgrade",
            "the port speaks TLS",
            "write wss:// in place of ws://; with AceBase, ipc.ssl: true",
        )
    if isinstance(fault, HTTPException):
        text = f"what answers speaks no HTTP: {one_line(fault)}"
    else:
        text = f"no answer to the handshake: {one_line(fault)}"
    return error("upgrade", text, "check that host and port are the relay's")


def _refusal(target: Target, answer: Answer) -> Finding:
    """Return what an answer without an upgrade means."""
    status = answer.status
    said = f"answered {status}{_proxy(answer.headers)}: {answer.text[:200]}".rstrip(": ")
    if status == 426:
        return error("upgrade", f"the relay got no request for an upgrade ({said})", _UPGRADE)
    if status == 403 and "host name" in answer.text:
        return error(
            "host",
            f"{target.url.host!r} is not accepted ({said})",
            f"start the relay with --allow-host {target.url.host}, or with a token",
        )
    if status == 403 and "not serve this database" in answer.text:
        return error(
            "database",
            f"{target.database!r} is not served ({said})",
            "give the relay a --database PATTERN that matches this wire name, or another name here",
        )
    if status in (401, 403):
        return error("token", f"the token is not accepted ({said})", _token_advice(target))
    if 300 <= status < 400:
        place = answer.headers.get("location", "another place")
        return error("upgrade", said, f"clients follow no redirection: use {place}")
    if status in _REFUSALS and not (status == 404 and answer.text != "Not found"):
        return error("upgrade", said, _REFUSALS[status])
    return error(
        "upgrade", f"this is no relay ({said})", "check host, port, scheme and path of the URL"
    )


def _token_advice(target: Target) -> str:
    if target.token is None:
        return (
            "the relay requires a token: name a file that holds it with --token-file; with"
            " AceBase, ipc.token"
        )
    return f"check the token, and that it opens the database {target.database!r}"


def _examine_token(target: Target) -> Iterator[Finding]:
    """Yield whether a token is required, and whether both ways to present one work."""
    client_id = f"doctor-{secrets.token_hex(8)}"
    try:
        without = handshake(target, client_id, True, None)
        if isinstance(without, Welcome):
            yield _no_token(target)
            return
        header = handshake(target, client_id, False, target.token)
    except NO_HTTP as fault:
        yield warning("token", f"not looked at: {one_line(fault)}", "try again")
        return
    if isinstance(header, Answer):
        yield error(
            "token",
            f"a token in the query is accepted, but not in the header (answered {header.status})",
            "let the proxy on the way pass on the header Authorization",
        )
    else:
        yield ok("token", "it is required, and accepted")


def _no_token(target: Target) -> Finding:
    if target.url.socket or target.url.host in ("localhost", "127.0.0.1", "::1"):
        return ok("token", "the relay requires none")
    return warning(
        "token",
        "the relay requires none: everybody who can connect can read and write",
        "start it with --token-file; acebase-ipc token new makes a token",
    )


def _examine_query(answer: Welcome, expected: str) -> Finding:
    """Return whether the client's id arrived as it was sent."""
    if answer.clients is None:
        return error(
            "requests",
            "plain HTTP requests do not reach the relay: large messages cannot be sent",
            "let the proxy pass on every request below the relay's path, not only WebSockets",
        )
    if expected not in answer.clients:
        return error(
            "requests",
            "the query of a request arrives changed: tokens and ids with '+', '%' or '[' fail",
            "let the proxy pass on the request's target as it is (with nginx: proxy_pass without"
            " a path)",
        )
    return ok("requests", "they arrive unchanged")


def _examine_max_payload(target: Target, max_payload: int) -> Finding:
    if not target.url.secure:
        return skipped("maxPayload", f"{show_size(max_payload)}; it matters with TLS only")
    if max_payload < DEFAULT_MAX_PAYLOAD_TLS:
        return error(
            "maxPayload",
            f"it is {show_size(max_payload)} behind TLS: an AceBase process that sends more ends,"
            " because the npm package acebase posts large messages without TLS",
            "start the relay with --max-payload 16MiB",
        )
    return ok("maxPayload", f"it is {show_size(max_payload)}, enough for AceBase behind TLS")


def _proxy(headers: dict[str, str]) -> str:
    """Return what the answer tells of a proxy."""
    names = [headers[each] for each in ("via", "server") if each in headers]
    others = [each for each in names if not each.startswith("TwistedWeb")]
    return f", through {', '.join(others)}" if others else ""
