"""A client's requests over HTTP, through treq: large messages, and the list of peers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer, IProtocol, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from acebase_ipc.client.answer import MAX_HEAD
from acebase_ipc.client.connection import CLOSE_TIMEOUT
from acebase_ipc.client.errors import RelayOverloaded, RequestFailed, RequestUnanswered, denied
from acebase_ipc.client.url import RelayURL

IDLE = 10
"""Seconds for which an unused connection is kept: the relay keeps it for 15 at least."""

TIMEOUT = 60.0
"""Seconds that a request may take; the relay's own limit."""

RETRY_AFTER = (1.0, 4.0)
"""Seconds after which a GET that was not answered is tried again; an announced message
waits for 60 s."""

T = TypeVar("T")

MAX_PEER_LIST = 8 * 1024 * 1024
"""Bytes of the list of peers: 5,000 with the longest ids take some 4 MiB."""

MAX_ERROR = 1024
"""Bytes of a refusal's text that are read."""

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_INFORMATIONAL = re.compile(rb"HTTP/\d\.\d 1\d\d")


class _HTTPConnection(ProtocolWrapper):
    """One HTTP connection; it ends if the head of an answer is too long.

    Twisted bounds the lines of a head, but not their number.
    """

    factory: _HTTPConnections
    transport: Any

    def makeConnection(self, transport: Any) -> None:
        self._begin_answer()
        super().makeConnection(transport)

    def write(self, data: bytes) -> None:
        self._begin_answer()
        super().write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._begin_answer()
        super().writeSequence(data)

    def _begin_answer(self) -> None:
        self._head: bytearray | None = bytearray()
        self._informational = 0  # bytes of answers 1xx, after which another head follows

    def dataReceived(self, data: bytes) -> None:
        if self._head is not None and self._is_head_too_long(self._head, data):
            self.transport.abortConnection()
        else:
            super().dataReceived(data)

    def _is_head_too_long(self, head: bytearray, data: bytes) -> bool:
        head += data
        while (end := _END_OF_HEAD.search(head)) is not None:
            if not _INFORMATIONAL.match(head):
                self._head = None  # what follows is the body, which is bounded elsewhere
                return end.end() > MAX_HEAD
            self._informational += end.end()
            del head[: end.end()]
        return self._informational + len(head) > MAX_HEAD


class _HTTPConnections(WrappingFactory):
    """The connections of one attempt to connect."""

    protocol = _HTTPConnection
    noisy = False


@implementer(IStreamClientEndpoint)
class _Bounded:
    """An endpoint whose connections are bounded, and write no line to the log each."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._factories: list[_HTTPConnections] = []

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        factory.noisy = False
        bounded = _HTTPConnections(factory)
        self._factories = [each for each in self._factories if each.protocols]
        self._factories.append(bounded)
        connecting: Deferred[Any] = maybeDeferred(self._endpoint.connect, bounded)
        return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)

    def abort(self) -> None:
        """End all connections at once."""
        for factory in self._factories:
            for each in tuple(factory.protocols):
                each.transport.abortConnection()


@implementer(IAgentEndpointFactory)
class _OneEndpoint:
    """The relay's endpoint for each URI."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self._endpoint


@implementer(IBodyProducer)
class _Body:
    """The body of a request; treq's own for bytes depends on the global reactor.

    :ivar sent: whether it was handed to a connection.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)
        self.sent = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.sent = True
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


class RelayHTTP:
    """The relay's HTTP endpoints, for one peer of one database.

    :param headers: the headers of every request.
    :param max_message: bytes that a download may have.
    """

    def __init__(
        self,
        url: RelayURL,
        dbname: str,
        client_id: str,
        headers: dict[str, str],
        endpoint: IStreamClientEndpoint,
        max_message: int,
        reactor: Any,
    ) -> None:
        # The endpoint knows where to connect; treq cannot read every host's address.
        scheme = "https" if url.secure else "http"
        self._base = f"{scheme}://localhost{url.prefix}/{quote(dbname, safe='')}"
        headers = {"Host": url.authority, **headers}
        self._id = quote(client_id, safe="")
        self._headers = Headers({name: [value] for name, value in headers.items()})
        self._max_message = max_message
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor)
        self._pool.cachedConnectionTimeout = IDLE
        self._endpoint = _Bounded(endpoint)
        agent = Agent.usingEndpointFactory(reactor, _OneEndpoint(self._endpoint), self._pool)
        self._treq = HTTPClient(agent)
        self._running: set[Deferred[Any]] = set()

    def post(self, message: bytes) -> Deferred[None]:
        """Send a message of any size; it is not tried twice.

        :returns: a Deferred that fires when it is relayed, or fails with
            :class:`~acebase_ipc.client.errors.RequestFailed`.
        """

        async def post() -> None:
            await self._request("POST", f"send?id={self._id}", MAX_ERROR, message)

        return self._run(post())

    def download(self, message_id: str) -> Deferred[str]:
        """Fetch a message that was announced.

        :returns: a Deferred with its body, which fails as that of :meth:`post` does.
        """

        async def download() -> str:
            path = f"receive?id={self._id}&msg={quote(message_id, safe='')}"
            return await self._get(path, self._max_message)

        return self._run(download())

    def clients(self) -> Deferred[frozenset[str]]:
        """Fetch who is connected.

        :returns: a Deferred with ids, which fails as that of :meth:`post` does.
        """

        async def clients() -> frozenset[str]:
            answer = await self._get("clients", MAX_PEER_LIST)
            try:
                return frozenset(str(each["id"]) for each in json.loads(answer))
            except (LookupError, TypeError, ValueError, RecursionError):
                raise RequestFailed("the relay's answer is no list of clients") from None

        return self._run(clients())

    def stream(self, path: str, received: Callable[[bytes], None]) -> Deferred[None]:
        """Read the answer to a GET that has no end; *received* is called with each piece.

        :returns: a Deferred that fires when the relay has ended it, and fails as that of
            :meth:`post` does. Cancelling it ends all connections at once.
        """

        async def stream() -> None:
            text = bytearray()
            try:
                response = await self._get_unbuffered(path)
                is_good = response.code == HTTPStatus.OK
                await response.collect(
                    received
                    if is_good
                    else lambda piece: text.extend(piece[: MAX_ERROR - len(text)])
                )
            except Exception as error:
                raise RequestUnanswered(_reason(error), sent=True) from None
            if not is_good:
                raise denied(response.code, text.decode("utf-8", "replace").partition("\n")[0])

        def cancel(_: object) -> None:
            self._endpoint.abort()

        ended: Deferred[None] = Deferred(cancel)
        self._run(stream()).addBoth(lambda result: None if ended.called else ended.callback(result))
        return ended

    async def _get_unbuffered(self, path: str) -> Any:
        return await self._treq.request(
            "GET",
            f"{self._base}/{path}",
            headers=self._headers,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )

    def _run(self, request: Coroutine[Any, Any, T]) -> Deferred[T]:
        running = Deferred.fromCoroutine(request)
        self._running.add(running)

        def ended(result: T) -> T:
            self._running.discard(running)
            return result

        return running.addBoth(ended)

    def cancel(self) -> None:
        """Cancel all requests."""
        for each in tuple(self._running):
            each.cancel()

    def close(self) -> Deferred[None]:
        """End the connections that are kept, at the latest after :data:`CLOSE_TIMEOUT`."""
        deadline = self._reactor.callLater(CLOSE_TIMEOUT, self._endpoint.abort)
        closing: Deferred[Any] = self._pool.closeCachedConnections()

        def closed(_: object) -> None:
            if deadline.active():
                deadline.cancel()

        return closing.addBoth(closed)

    async def _get(self, path: str, limit: int) -> str:
        """Return the answer to a GET, which may be tried again."""
        for delay in RETRY_AFTER:
            try:
                return await self._request("GET", path, limit)
            except (RequestUnanswered, RelayOverloaded):
                await deferLater(self._reactor, delay)
        return await self._request("GET", path, limit)

    def _request(
        self, method: str, path: str, limit: int, data: bytes | None = None
    ) -> Deferred[str]:
        """Return the text of an answer 200, of *limit* bytes at most; fails with
        ``RequestFailed``."""

        body = None if data is None else _Body(data)

        def timed_out(result: object, timeout: float) -> str:
            raise RequestUnanswered(f"not within {timeout:g} s", sent=body is None or body.sent)

        def cancel(answer: Deferred[str]) -> None:
            # First, for what the exchange fails with looks as if it was not answered.
            answer.errback(CancelledError())
            exchange.cancel()

        def ended(result: str | Failure) -> None:
            if not answer.called:
                answer.callback(result)

        answer: Deferred[str] = Deferred(cancel)
        exchange = Deferred.fromCoroutine(self._exchange(method, path, limit, body))
        exchange.addTimeout(TIMEOUT, self._reactor, timed_out).addBoth(ended)
        return answer

    async def _exchange(self, method: str, path: str, limit: int, body: _Body | None) -> str:
        text = bytearray()
        try:
            response = await self._treq.request(
                method,
                f"{self._base}/{path}",
                data=body,
                headers=self._headers,
                allow_redirects=False,
                unbuffered=True,
                reactor=self._reactor,
            )
            good = response.code == HTTPStatus.OK
            limit = limit if good else MAX_ERROR
            await response.collect(lambda piece: text.extend(piece[: limit + 1 - len(text)]))
        except Exception as error:
            raise RequestUnanswered(_reason(error), sent=body is None or body.sent) from None
        if not good:
            raise denied(response.code, text.decode("utf-8", "replace").partition("\n")[0])
        if len(text) > limit:
            raise RequestFailed(f"the relay's answer exceeds {limit} bytes: raise max_message")
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise RequestFailed("the relay's answer is not UTF-8") from None


def _reason(error: Exception) -> str:
    """One line; some errors of Twisted's are lists of failures."""
    reasons = getattr(error, "reasons", None)
    return reasons[0].getErrorMessage() if reasons else str(error) or type(error).__name__
