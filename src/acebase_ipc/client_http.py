"""A client's requests over HTTP, through treq: large messages, and who is connected."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from acebase_ipc.client_errors import RequestFailed, RequestUnanswered, denied
from acebase_ipc.urls import RelayURL

IDLE = 10
"""Seconds for which an unused connection is kept: the relay keeps it for 15 at least."""

TIMEOUT = 60.0
"""Seconds that a request may take; the relay's own limit."""

MAX_ERROR = 1024
"""Bytes of a refusal's text that are read."""


@implementer(IAgentEndpointFactory)
class _OneEndpoint:
    """Whatever is asked for, it is the relay's."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self._endpoint


class RelayHTTP:
    """The relay's HTTP endpoints, for one peer of one database.

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
        self._base = f"{url.http}/{quote(dbname, safe='')}"
        self._id = quote(client_id, safe="")
        self._headers = Headers({name: [value] for name, value in headers.items()})
        self._max_message = max_message
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor)
        self._pool.cachedConnectionTimeout = IDLE
        agent = Agent.usingEndpointFactory(reactor, _OneEndpoint(endpoint), self._pool)
        self._treq = HTTPClient(agent)

    def post(self, message: bytes) -> Deferred[None]:
        """Send a message of any size.

        :returns: a Deferred that fires when it is relayed, or fails with
            :class:`~acebase_ipc.client_errors.RequestFailed`.
        """

        async def post() -> None:
            await self._request("POST", f"send?id={self._id}", MAX_ERROR, message)

        return self._limited(post)

    def download(self, message_id: str) -> Deferred[str]:
        """Fetch a message that was announced.

        :returns: its body; fails as :meth:`post` does.
        """

        async def download() -> str:
            path = f"receive?id={self._id}&msg={quote(message_id, safe='')}"
            body = await self._request("GET", path, self._max_message)
            return body.decode()

        return self._limited(download)

    def clients(self) -> Deferred[frozenset[str]]:
        """The ids of the peers that are connected; fails as :meth:`post` does."""

        async def clients() -> frozenset[str]:
            found = json.loads(await self._request("GET", "clients", self._max_message))
            return frozenset(str(each["id"]) for each in found)

        return self._limited(clients)

    def close(self) -> Deferred[None]:
        """End the connections that are kept."""
        closing: Deferred[None] = self._pool.closeCachedConnections()
        return closing

    async def _request(
        self, method: str, path: str, limit: int, data: bytes | None = None
    ) -> bytes:
        response = await self._treq.request(
            method,
            f"{self._base}/{path}",
            data=data,
            headers=self._headers,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        good = response.code == 200
        body = bytearray()
        limit = limit if good else MAX_ERROR

        def collect(piece: bytes) -> None:
            body.extend(piece[: limit + 1 - len(body)])

        await response.collect(collect)
        if good and len(body) > limit:
            raise RequestFailed(f"the relay's answer exceeds {limit} bytes: raise max_message")
        if not good:
            raise denied(response.code, body.decode("utf-8", "replace").partition("\n")[0])
        return bytes(body)

    def _limited(self, request: Callable[[], Any]) -> Deferred[Any]:
        async def run() -> Any:
            try:
                return await request()
            except (RequestFailed, CancelledError):
                raise
            except Exception as error:
                raise RequestUnanswered(str(error)) from None

        done: Deferred[Any] = Deferred.fromCoroutine(run())
        return done.addTimeout(TIMEOUT, self._reactor, self._timed_out)

    def _timed_out(self, result: object, timeout: float) -> object:
        raise RequestUnanswered(f"after {timeout:g} s")
