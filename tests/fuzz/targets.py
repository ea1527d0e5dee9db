"""What is fuzzed: each target takes any bytes, and raises where the product is wrong.

None of them needs the fuzzer: ``tests/test_fuzz.py`` gives them the committed
corpus, and whatever was once found.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, quote_from_bytes

from acebase_ipc.errors import ConfigError
from acebase_ipc.http.tokens import Rule, Tokens, read_token_file
from acebase_ipc.protocol.dialect import Dialect, has_acebase_fingerprint, is_envelope
from acebase_ipc.protocol.envelopes import InvalidEnvelope, Notification, notification
from acebase_ipc.protocol.envelopes import parse as parse_envelope
from acebase_ipc.protocol.errors import InvalidAddress, RequestRefused
from acebase_ipc.protocol.frames import PartialText, frame_payload, split, text_frame
from acebase_ipc.protocol.handshake import accept, parse_query
from acebase_ipc.protocol.messages import Audience, Body, parse, read, render, utf16_units
from acebase_ipc.protocol.values import decode as decode_values
from acebase_ipc.testing import (
    LengthForm,
    MemoryConnection,
    MemoryRelay,
    Opcode,
    client_frame,
    http_head,
    parse_responses,
    server_frames,
    upgrade_request,
)
from acebase_ipc.testing.frames import apply_mask
from tests.fuzz.history import play
from tests.fuzz.reader import Reader
from tests.fuzz.sessions import play as play_session
from tests.websocket.test_fastpath_differential import LONG_LIMIT, SHORT_LIMIT, compare

MAX_PIECES = 12
MAX_TEXT = 4000


def _expect(holds: bool) -> None:
    assert holds


# Frames


def frames(data: bytes) -> None:
    """Frames in pieces: the short way against Autobahn alone."""
    reader = Reader(data)
    limit = reader.choose([SHORT_LIMIT, LONG_LIMIT])
    stream = b""
    for _ in range(reader.number(8)):
        stream += reader.bytes(20) if reader.number(9) == 0 else _frame(reader)
    pieces: list[bytes] = []
    while stream and len(pieces) < MAX_PIECES:
        size = 1 + reader.number(255)
        pieces.append(stream[:size])
        stream = stream[size:]
    compare([each for each in (*pieces, stream) if each], limit)


def _frame(reader: Reader) -> bytes:
    payload = reader.choose([b"", b"echo ", b"leave", "語".encode() * 40, b"x" * 120])
    payload += reader.bytes(16)
    plain = reader.number(3) > 0
    forms = [
        each for each in LengthForm if len(payload) < 1 << each and (each > 7 or len(payload) < 126)
    ]
    return client_frame(
        payload,
        Opcode.TEXT if plain else reader.number(15),
        final=plain or reader.number(1) > 0,
        rsv=0 if plain else reader.choose([0, 0, 0, 1, 2, 4]),
        mask=None if not plain and reader.number(9) == 0 else reader.bytes_of(4),
        form=None if plain else reader.choose(forms),
    )


def framing(data: bytes) -> None:
    """Any bytes as a stream: what is taken from it is what a plain reading says."""
    limit = 2000
    expected, start = _read_plainly(data, limit)
    messages, rest, partial = split(data, limit, apply_mask)
    assert messages == expected
    if partial is None:
        assert rest == data[start:]
        return
    assert partial.raw == data[start:]
    assert partial.received + partial.missing <= limit
    # Byte by byte it comes to the same.
    header = len(partial.raw) - partial.received
    again = PartialText(
        data[start : start + header],
        data[start + header - 4 : start + header],
        partial.received + partial.missing,
        apply_mask,
    )
    for byte in data[start + header :]:
        assert again.feed(bytes((byte,)))
    assert (again.payload, again.missing) == (partial.payload, partial.missing)


def _read_plainly(data: bytes, limit: int) -> tuple[list[bytes], int]:
    messages = []
    start = 0
    while data[start : start + 1] == b"\x81" and len(data) > start + 1 and data[start + 1] >= 0x80:
        form = data[start + 1] - 0x80
        size = {126: 2, 127: 8}.get(form, 0)
        told = data[start + 2 : start + 2 + size]
        length = int.from_bytes(told, "big") if size else form
        begin = start + 2 + size + 4
        minimal = {126: 126, 127: 65536}.get(form, 0)
        if len(data) < begin + length or not minimal <= length <= limit:
            break
        payload = apply_mask(data[begin : begin + length], data[begin - 4 : begin])
        try:
            payload.decode()
        except UnicodeDecodeError:
            break
        messages.append(payload)
        start = begin + length
    return messages, start


# Messages


def wire(data: bytes) -> None:
    """A message: whom it is for, how it is rendered, how long it is."""
    text = data.decode("utf-8", "replace")
    data = text.encode()
    match = re.fullmatch("to:([^;]+);(.*)", text, re.DOTALL)
    try:
        addressee, body = parse(data)
    except InvalidAddress:
        assert match is None
        assert text.startswith("to:")
    else:
        if match is not None:
            whom = match[1].encode()
            assert addressee == (Audience.OTHERS if match[1] == "all" else whom)
            assert body == match[2].encode()
        else:
            assert body == data
            assert addressee is (Audience.RELAY if text == "ping" else Audience.OTHERS)
            assert not text.startswith("to:")
        for dialect in Dialect:
            rendered = render(body, dialect)
            inline = dialect is Dialect.ACEBASE and body[:1] == b"{"
            assert rendered == (body if inline else b"msg:" + body)
    assert utf16_units(data) == sum(2 if c > "\uffff" else 1 for c in text)
    frame = text_frame(data)
    assert frame_payload(frame) == data
    assert server_frames(frame) == [(Opcode.TEXT, data)]


def handshake(data: bytes) -> None:
    """A query: decoded as ``urllib.parse`` does, and refused for what the contract says."""
    query = parse_query(data)
    raw = data.replace(b"+", b"%2B").replace(b";", b"%3B")
    pairs = parse_qsl(quote_from_bytes(raw, safe="%&=/"), True, False, "utf-8", "surrogateescape")
    expected = dict(pairs)
    # A pair without anything in it is none for urllib; nobody asks for the key "".
    query.pop("", None)
    expected.pop("", None)
    assert query == expected
    try:
        accepted = accept("db", data)
    except RequestRefused as refusal:
        _expect(refusal.status in (400, 409, 500))
        return
    client_id = expected["id"]
    assert accepted.client_id == client_id
    assert 5 <= len(client_id) <= 128
    assert ";" not in client_id
    assert client_id.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", client_id)
    assert expected["v"].split(".")[0] == "1"
    if "dialect" in expected:
        assert accepted.dialect.value == expected["dialect"]
    else:
        assert accepted.dialect_settled == (accepted.dialect is Dialect.ACEBASE)


_TYPES = (
    "hello bye pulse subscribe unsubscribe event lock-request lock-result unlock-request"
    " unlock-result move-lock-request notification request result"
)


def dialect(data: bytes) -> None:
    """Whether a query or a message is a published client's, read a second way."""
    head, _, rest = data.partition(b"\n")
    sender = head.decode("utf-8", "replace")
    body = rest.decode("utf-8", "replace").encode()
    named = b'"from":' + json.dumps(sender, ensure_ascii=False).encode() in body[:512]
    parts = body.split(b'"')
    kinds = [each.encode() for each in _TYPES.split()]
    is_one = parts[:3] == [b"{", b"type", b":"] and len(parts) > 4 and parts[3] in kinds
    assert is_envelope(body, sender) == (is_one and named)
    pairs = rest.split(b"&")
    keys = [each.partition(b"=")[:2] for each in pairs]
    in_order = keys == [(b"v", b"="), (b"id", b"="), (b"t", b"=")]
    own = sender == "[master]" or bool(re.fullmatch("[0-9a-z]{24}", sender))
    assert has_acebase_fingerprint(rest, sender) == (in_order and own)


# Files

_DIRECTORY = tempfile.TemporaryDirectory()  # until the process ends


def tokens(data: bytes) -> None:
    """A token file: usable, or refused in one line; and a decision for each name."""
    path = Path(_DIRECTORY.name, "tokens")
    path.write_bytes(data)
    try:
        rules = read_token_file(path)
    except ConfigError as error:
        _expect(len(str(error).splitlines()) == 1)
        return
    assert rules
    secrets = []
    for rule in rules:
        secret = rule.token.decode()
        assert secret.split() == [secret]
        assert rule.pattern == rule.pattern.strip() != ""
        assert secret not in repr(rule).replace(rule.pattern, "") or len(secret) < 20
        secrets.append(secret)
    decide = Tokens(rules)
    assert decide.required
    name = data[:40].decode("utf-8", "replace")
    for secret in secrets[:10]:
        assert decide.allow(None, [secret])
    assert not decide.allow(name, ["not one of them: it has spaces"])
    assert Tokens((Rule(b"x"),)).allow(name, ["x"])


# Requests

_DATABASES = ["db", "shop_data", "__proto__", "%E8%AA%9E", "caf\xe9", "", "a" * 201, "%00", "a%2Fb"]
_ENDPOINTS = ["connect", "send", "receive", "clients", "", "nothing", "send/more"]
_VALUES = ["id=alice", "id=[master]", "id=a", "v=1.0.0", "v=2", "t=none", "msg=x", "id=%ff%fe12"]
_HEADERS = [
    ("Content_Length", "5"),
    ("Content_Length", "-1"),
    ("Content_Length", "99999999999"),
    ("Transfer_Encoding", "chunked"),
    ("Expect", "100-continue"),
    ("Origin", "https://example.org"),
    ("Host", "example.org"),
    ("Authorization", "Bearer x"),
    ("Connection", "close"),
    ("Upgrade", "websocket"),
    ("Sec_WebSocket_Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec_WebSocket_Version", "12"),
]
_METHODS = ["GET", "GET", "POST", "POST", "OPTIONS", "HEAD", "PUT", "PRI"]
_STATUSES = {100, 101, 200, 204, 400, 401, 403, 404, 405, 409, 411, 413, 417, 426, 500, 501, 503}


def http(data: bytes) -> None:
    """Requests, whole or not, to the real Site: no failure is logged, every answer is whole."""
    reader = Reader(data)
    relay = MemoryRelay(token="none" if reader.number(3) == 0 else None, max_payload=100)
    bystander = relay.join("alice", "db")
    connection = relay.connect()
    may_be_head = False
    for _ in range(reader.number(4)):
        kind = reader.number(5)
        if kind == 0:
            noise = reader.bytes(60)
            may_be_head = may_be_head or b"H" in noise or b"A" in noise
            connection.send(noise)
        elif kind == 1:
            connection.send(upgrade_request(_target(reader)))
        elif kind == 2:
            connection.send(client_frame(reader.bytes(60), reader.number(10)))
        else:
            method = reader.choose(_METHODS)
            may_be_head = may_be_head or method == "HEAD"
            _send_request(reader, connection, method)
        if reader.number(5) == 0:
            relay.pass_time(reader.number(70), step=5)
    _check_answers(connection.take(), may_be_head)
    if reader.number(1):
        connection.close()
    else:
        connection.reset()
    # The relay lives: others are served.
    if bystander.connection.ended is None:
        bystander.say("ping")
        assert "pong" in bystander.received()
    relay.stop()
    relay.reactor.close()


def _target(reader: Reader) -> str:
    path = f"/{reader.choose(_DATABASES)}/{reader.choose(_ENDPOINTS)}"
    values = [reader.choose(_VALUES) for _ in range(reader.number(4))]
    if reader.number(7) == 0:
        values.append(re.sub(r"[\x00-\x20\x7f-\xff]", "", reader.bytes(20).decode("latin-1")))
    return f"{path}?{'&'.join(values)}"


def _send_request(reader: Reader, connection: MemoryConnection, method: str) -> None:
    headers = dict(reader.choose(_HEADERS) for _ in range(reader.number(3)))
    request = http_head(method, _target(reader), **headers)
    body = reader.choose([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"to:alice;x", b"x" * 300])
    body += reader.bytes(30)
    if method == "POST" and not headers:
        request = request[:-2] + b"Content-Length: %d\r\n\r\n" % len(body)
    cut = reader.number(255)
    data = request + body
    connection.send(data[:cut], data[cut:])


def _check_answers(data: bytes, may_be_head: bool) -> None:
    """Each answer has a known status, and is whole; a 500 says only what the contract says."""
    data = re.split(rb"(?m)^HTTP/1\.1 101 ", data)[0]
    statuses = [int(each) for each in re.findall(rb"(?m)^HTTP/1\.1 (\d{3}) ", data)]
    assert set(statuses) <= _STATUSES, statuses
    if may_be_head:
        return  # its answer has a length and no body
    for response in parse_responses(data):
        refused = response.status == HTTPStatus.INTERNAL_SERVER_ERROR
        assert not refused or response.text.strip() == "Invalid IPC client id"


# The other end


def peer(data: bytes) -> None:
    """What a relay and AceBase processes say to a Python peer: read, or refused as malformed."""
    text = data.decode("utf-8", "replace")
    message = read(text)
    assert isinstance(message, Body) == text.startswith(("{", "msg:"))
    if not isinstance(message, Body):
        return
    assert message.text in (text, text[4:])
    try:
        envelope = parse_envelope(message.text)
    except InvalidEnvelope:
        return
    said = json.loads(message.text)
    assert envelope.sender == said["from"]
    if isinstance(envelope, Notification):
        again = parse_envelope(notification(envelope.sender, "x"))
        assert again == Notification(envelope.sender, "x")
        assert decode_values(said.get("data")) == envelope.data


# Histories


def relay(data: bytes) -> None:
    """A history of the relay against its model."""
    play(Reader(data))


def sessions(data: bytes) -> None:
    """A session whose connections are lost, against a peer that loses none."""
    play_session(Reader(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (frames, framing, wire, handshake, dialect, tokens, http, peer, relay, sessions)
}
