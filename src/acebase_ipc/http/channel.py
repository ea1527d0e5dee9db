"""An HTTP connection: its input, its deadlines, its refusals."""

from __future__ import annotations

from collections import deque
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from OpenSSL.SSL import Error as SSLError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.addresses import format_address
from acebase_ipc.http.errors import BadRequest, HeadTooLarge
from acebase_ipc.http.head import KEPT, RequestLine, parse_header, parse_request_line
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.events import RequestTimeout, TLSFailed
from acebase_ipc.relay.limits import KIB
from acebase_ipc.websocket._autobahn import BadRequestChannel

MAX_HEAD: Final = 16 * KIB
"""Bytes of a request line and its headers; as in Twisted, Node.js and nginx."""

MAX_HEADER_LINES: Final = 100
"""As in h2o and Apache httpd; browsers and proxies together send about 40."""

PIECE: Final = 512
"""Bytes of a head or a chunked body that are parsed in one step: at most 128 header lines
or 85 chunks. Other bodies cost nothing to parse."""

CLOSE_TIMEOUT: Final = 15.0
"""Seconds that a connection has to end after it was closed, before it is aborted: a client
may not read the last answer, and over TLS it may not answer the close."""

WRITE_BUFFER: Final = 128 * KIB
"""Bytes that a connection is assumed to hold while its client does not read: the transport
reports that it is full at 64 KiB, and one answer or slice of a download more may follow."""


TLS_HANDSHAKE: Final = b"\x16\x03"
"""The first bytes of a ClientHello (RFC 8446, section 5.1). No request begins with them."""


def tls_problem(error: SSLError) -> str:
    """Return why a TLS handshake has failed, in words."""
    match error.args:
        case [[*errors], *_]:
            reasons = [str(each[-1]) for each in errors]
        case _:  # of the system
            reasons = [str(each) for each in error.args[-1:]]
    if not {"http request", "https proxy request"}.isdisjoint(reasons):
        return "it speaks plain HTTP to a TLS port"
    return "; ".join(reasons) or "the handshake has failed"


class Phase(Enum):
    """What a connection waits for."""

    FIRST = "the head of its first request"
    IDLE = "the next request"
    RECEIVING = "the rest of a request"
    ANSWERING = "an answer that is being made"
    PAUSED = "room for a body"
    CLOSING = "the client's end of the connection, after it was closed here"
    ENDED = "nothing: it has ended, or is a WebSocket now"


PARSING = (Phase.FIRST, Phase.IDLE, Phase.RECEIVING)
"""The phases in which input is parsed. A tuple, because members of an Enum are hashed slowly."""

OVER = (Phase.CLOSING, Phase.ENDED)
"""The phases in which input is ignored."""


@implementer(IHalfCloseableProtocol)
class SteppedChannel(BadRequestChannel):
    """An HTTP connection whose input is parsed in steps.

    Input waits here and is parsed step by step, in rotation with that of other
    connections, and only while the client reads the answers. While input waits,
    nothing is read from the transport.

    A client that sends nothing more, as ``nc -N`` does after its request, is sent all answers.

    :cvar kept: the headers that are kept.
    :cvar error_type: the type of :meth:`error_body`.
    :ivar site: has the ``rotation``, the ``observer``, the time-outs and the ``context`` with the
        clock and the refusals; learns which connections are :meth:`opened` and :meth:`closed`.
    :ivar deadline: when the client has to have done what :attr:`phase` waits for.
    :ivar read_deadline: when the client has to have read what was written.
    """

    kept = KEPT
    error_type = "text/plain; charset=utf-8"
    site: Any
    transport: Any
    phase = Phase.FIRST
    deadline: float | None = None
    read_deadline: float | None = None
    _sends_no_more = False
    _needs_client = False
    _in_head = False
    _has_body = False
    _authority: bytes | None = None
    _head_size = 0
    _head_lines = 0
    _input_size = 0
    _reads = True

    if TYPE_CHECKING:
        paused: bool

    def connectionMade(self) -> None:
        """Wait for the first request."""
        self._input: deque[bytes] = deque()
        self._taken = bytearray()  # what was parsed of a request whose body has not begun
        self.site.opened(self)
        self._enter(Phase.FIRST, self.site.handshake_timeout)
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpKeepAlive(True)
        self.transport.bufferSize = MAX_HEAD
        super().connectionMade()

    @property
    def client(self) -> IAddress:
        """The address of the client."""
        client: IAddress = self.transport.getPeer()
        return client

    @property
    def memory(self) -> int:
        """Bytes that the connection holds, beside bodies."""
        unread = WRITE_BUFFER if self.read_deadline is not None else 0
        return self._input_size + self._head_size + unread

    def _enter(self, phase: Phase, timeout: float | None = None) -> None:
        if self.phase not in OVER:
            self.phase = phase
            self.deadline = None if timeout is None else self.site.context.clock() + timeout

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Parse *data*, or keep it until other connections had their turns."""
        if self.phase in OVER:
            return
        if self.phase is Phase.FIRST and data.startswith(TLS_HANDSHAKE):
            self._report_tls("it speaks TLS to a port without TLS")
            self._answer(BadRequest("This port does not speak TLS"))
            return
        self._input.append(data)
        self._input_size += len(data)
        self._begin_receiving()
        if self._can_parse():
            self.site.rotation.start(self)
        self._read_while_nothing_waits()

    def _can_parse(self) -> bool:
        return bool(self._input) and self.phase in PARSING and self.read_deadline is None

    def step(self) -> bool:
        """Parse up to one request; returns whether more can be parsed now."""
        if not self._can_parse():
            return False
        data = self._take()
        self.paused = False
        try:
            super().dataReceived(data)
        except Exception as error:  # whatever the parser does not catch
            self.refuse(BadRequest(f"The request cannot be parsed ({type(error).__name__})"))
        if self.paused:
            rest = self.clearLineBuffer()
            del self._taken[len(self._taken) - len(rest) :]
            self._put_back(rest)
        self._read_while_nothing_waits()
        return self._can_parse()

    def _take(self) -> bytes:
        """As much input as may be parsed in one step."""
        if not self.line_mode and self.length is not None:
            data = b"".join(self._input)
            self._drop_input()
            return data
        data = self._input.popleft()
        if len(data) > PIECE:
            self._input.appendleft(data[PIECE:])
        data = data[:PIECE]
        self._input_size -= len(data)
        if not self._has_body:
            self._taken += data
        return data

    def setRawMode(self) -> None:
        """Parse the body of a request, if it has one, or await its answer."""
        if self.length != 0:
            self._has_body = True
            self._taken.clear()
        super().setRawMode()

    def _drop_input(self) -> None:
        self._input.clear()
        self._input_size = 0

    def _put_back(self, data: bytes) -> None:
        if data and self.phase is not Phase.CLOSING:
            self._input.appendleft(data)
            self._input_size += len(data)
            self._begin_receiving()

    def _begin_receiving(self) -> None:
        """Give the client time for a request of which something was received."""
        if self.phase is Phase.IDLE and self._input:
            self._enter(Phase.RECEIVING, self.site.request_timeout)

    def setLineMode(self, extra: bytes = b"") -> None:
        """Parse the next request after the others; *extra* is what was read of it."""
        self._put_back(extra)
        super().setLineMode()

    def _read_while_nothing_waits(self) -> None:
        """Pause the transport while input waits, and resume it when none does."""
        reads = not self._input and self.phase is not Phase.PAUSED
        if self.phase in OVER or reads == self._reads:
            return
        self._reads = reads
        if not reads:
            self.transport.pauseProducing()
        elif self.read_deadline is None:
            self.transport.resumeProducing()

    def _go_on(self) -> None:
        """Parse the input that waits, or read."""
        self._reads = True  # as Twisted has resumed reading
        self._read_while_nothing_waits()
        if self._can_parse():
            self.site.rotation.add(self)

    # Parsing

    def lineReceived(self, line: bytes) -> None:
        """Check a line of a head, before Twisted parses it."""
        self._head_size = size = self._head_size + len(line)
        self._head_lines = lines = self._head_lines + 1
        if size > MAX_HEAD or lines > MAX_HEADER_LINES + 2:
            self.refuse(HeadTooLarge())
        elif self._in_head or not line:
            super().lineReceived(line)
        elif self.persistent:
            self._begin_request(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is too long."""
        self.refuse(HeadTooLarge())

    def _begin_request(self, line: bytes) -> None:
        """Parse the request line, which Twisted passes on only with the complete body."""
        try:
            parsed = parse_request_line(line)
        except RequestRefused as refusal:
            self.refuse(refusal)
            return
        self._in_head = True
        self._authority = parsed.authority
        super().lineReceived(b" ".join((parsed.method, parsed.target, parsed.version)))
        if self.phase in PARSING:
            self.began(parsed)

    def began(self, line: RequestLine) -> None:
        """Note the request line of the last request, whose headers follow."""

    def headerReceived(self, line: bytes) -> bool:
        """Keep a header that is used; returns whether it can be parsed."""
        try:
            name, _ = parse_header(line)
            if name == b"host" and self.requests[-1].requestHeaders.hasHeader(name):
                raise BadRequest("There are several Host headers")
        except RequestRefused as refusal:
            self.refuse(refusal)
            return False
        return name not in self.kept or bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        """Give the body more time than the head."""
        self._in_head = False
        self._head_lines = 0
        if self._authority is not None:
            self.requests[-1].requestHeaders.setRawHeaders(b"Host", [self._authority])
        self._enter(Phase.RECEIVING, self.site.request_timeout)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Answer a complete request, and none after it in this step."""
        if self.phase is not Phase.PAUSED:
            self._enter(Phase.ANSWERING)
        self.paused = True
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """Wait for the next request, or parse what has been received of it."""
        self._has_body = False
        self._taken.clear()
        self._head_size = 0
        self._needs_client = False
        self._enter(Phase.IDLE, self.site.http_idle)
        self.persistent = self.persistent and not self.site.is_closing
        super().requestDone(request)
        self._begin_receiving()
        self._go_on()

    # Refusing

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer a request that cannot be parsed, and close the connection."""
        if self.phase in OVER:
            return
        self._report(refusal)
        self._answer(refusal)

    def _answer(self, refusal: RequestRefused) -> None:
        """Answer with *refusal*, unless there is an answer already, and close the connection."""
        if not self._has_answered():
            status = HTTPStatus(refusal.status)
            body = self.error_body(str(refusal)).encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                f"Content-Type: {self.error_type}\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.close()

    def error_body(self, text: str) -> str:
        """Return the body of an answer that says what is wrong."""
        return text

    def _report(self, refusal: RequestRefused) -> None:
        self.site.context.refusals.report(format_address(self.client), refusal)

    def _report_tls(self, reason: str) -> None:
        self.site.observer.report(TLSFailed(format_address(self.client), reason))

    def bad_request(self) -> None:
        """Refuse what Twisted cannot parse."""
        self.refuse(BadRequest("The request cannot be parsed"))

    # Output

    def pauseProducing(self) -> None:
        """The transport is full: the client has to read before more is parsed."""
        self.read_deadline = self.site.context.clock() + self.site.request_timeout
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client has read all that was written."""
        self.read_deadline = None
        super().resumeProducing()
        if self.phase is not Phase.ANSWERING:
            self._go_on()

    # The end

    def readConnectionLost(self) -> None:
        """The client sends nothing more: the connection ends when all is answered.

        Twisted tells this again when it resumes reading, as it does after each answer.
        """
        self._sends_no_more = True
        if self.phase is Phase.ANSWERING and self._needs_client:
            self.abort()
        elif self.phase in PARSING:
            self.close()

    def writeConnectionLost(self) -> None:
        """Do nothing: only this end stops to write, and never before it closes the connection."""

    def need_client(self) -> None:
        """End the connection as soon as the client sends nothing more: it may be gone.

        For an answer that has no end, or makes the connection one that goes on.
        """
        self._needs_client = True
        if self._sends_no_more:
            self.abort()

    def loseConnection(self) -> None:
        """Close the connection when all is written; abort it if that takes too long."""
        if self.phase in (Phase.FIRST, Phase.RECEIVING) and not self._has_answered():
            # Twisted refuses a request by itself, with a status and no text.
            self._report(BadRequest("The request cannot be parsed"))
        self.close()

    def _has_answered(self) -> bool:
        return bool(self.requests and self.requests[-1].startedWriting)

    def close(self) -> None:
        """Close the connection without a report; it is aborted if it does not end."""
        self._enter(Phase.CLOSING, CLOSE_TIMEOUT)
        self._drop_input()
        self.paused = True
        self.read_deadline = None
        super().loseConnection()

    def expire(self, now: float) -> bool:
        """End the connection if its client has not done its part in time.

        :returns: whether it is late.
        """
        late = self.deadline is not None and self.deadline <= now
        if late and self.phase is Phase.IDLE:
            self.close()
            return True
        if late or (self.read_deadline is not None and self.read_deadline <= now):
            if self.phase is not Phase.CLOSING:
                self.site.observer.report(RequestTimeout(format_address(self.client)))
            self.abort()
            return True
        return False

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abortConnection()

    @property
    def unanswered(self) -> bytes | None:
        """What was received, if another process can receive it once more.

        That is nothing, or a request of which no byte of a body has come and no byte of an answer
        was written; and what follows it. ``None`` in all other cases.
        """
        waits = self.phase in PARSING or self.phase is Phase.ANSWERING
        if not waits or self._has_body or self._has_answered() or self.read_deadline is not None:
            return None
        return b"".join((self._taken, *self._input))

    def forget(self) -> None:
        """End nothing but what is here: another process has the connection."""
        self.connectionLost(Failure(ConnectionDone()))

    def _end(self) -> None:
        self._drop_input()
        self.phase = Phase.ENDED
        self.deadline = self.read_deadline = None
        self.site.rotation.discard(self)
        self.site.closed(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        if self.phase is Phase.FIRST and isinstance(reason.value, SSLError):
            self._report_tls(tls_problem(reason.value))
        self._end()
        super().connectionLost(reason)
