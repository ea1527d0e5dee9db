"""What the relay answers: short texts, and refusals."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from acebase_ipc.addresses import format_address, host_of
from acebase_ipc.http.errors import WrongToken
from acebase_ipc.http.tokens import FREE_FAILURES, Failures
from acebase_ipc.protocol.errors import MessageRefused, RequestRefused
from acebase_ipc.relay.events import Observer, Refused, TokenGuessing

FAILURE_DELAY = 2.0
"""Seconds by which the answer to one wrong token too many is delayed."""

MAX_DELAYED = 100
"""Answers that are delayed at the same time; further ones are given at once, because
a delayed answer costs the relay a connection and the client nothing."""


def respond(
    request: Request,
    status: int,
    text: str,
    content_type: bytes = b"text/plain; charset=utf-8",
) -> bytes:
    """Set the status and headers of a response of one piece; returns its body."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Cache-Control", b"no-store")
    return text.encode()


class LateAnswer:
    """The answer to a request that is not answered at once.

    :ivar is_awaited: whether its client is still there.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.is_awaited = True
        request.notifyFinish().addErrback(self._client_gone)

    def _client_gone(self, _: object) -> None:
        self.is_awaited = False

    def give(self, body: bytes) -> None:
        """Answer with *body*; the status and the other headers are set. The client is there."""
        self._request.setHeader(b"Content-Length", b"%d" % len(body))
        self._request.write(body)
        self._request.finish()


class Refusals:
    """Answers the requests that are refused, and reports each refusal.

    This is the only way to refuse a request, whether or not all of it has been
    received. Many wrong tokens from one address are answered late.

    :param clock: monotonic seconds.
    :param render: sets the status and headers of a refusal, and returns its body.
    """

    def __init__(
        self,
        observer: Observer,
        reactor: IReactorTime,
        clock: Callable[[], float],
        render: Callable[[Request, int, str], bytes] = respond,
    ) -> None:
        self._observer = observer
        self._render = render
        self._reactor = reactor
        self._clock = clock
        self._failures = Failures()
        self._delayed = 0

    def refuse(self, request: Request, refusal: MessageRefused | RequestRefused) -> None:
        """Report *refusal* and answer *request* with it, at once or after a delay."""
        late = LateAnswer(request)

        def answer() -> None:
            if late.is_awaited:
                late.give(self._render(request, refusal.status, str(refusal)))

        client = request.getClientAddress()
        self.report(format_address(client), refusal)
        if isinstance(refusal, WrongToken) and self._is_guessing(host_of(client)):
            self._delayed += 1
            self._reactor.callLater(FAILURE_DELAY, self._answer_late, answer)
        else:
            answer()

    def report(self, address: str, refusal: MessageRefused | RequestRefused) -> None:
        """Report a *refusal*, of what is not even a request, say."""
        self._observer.report(Refused(address, refusal.status, str(refusal)))

    def _is_guessing(self, host: str) -> bool:
        """Count a wrong token of *host*; returns whether to delay the answer."""
        failures = self._failures.note(host, self._clock())
        if failures == FREE_FAILURES + 1:
            self._observer.report(TokenGuessing(host))
        return failures > FREE_FAILURES and self._delayed < MAX_DELAYED

    def _answer_late(self, answer: Callable[[], object]) -> None:
        self._delayed -= 1
        answer()
