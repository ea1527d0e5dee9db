"""Requests over HTTP and HTTPS, with treq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from treq.client import HTTPClient
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.integration.peers import client_endpoint, reactor
from tests.integration.relay_process import DEADLINE, Address


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end."""

    status: int
    text: str
    content_type: str = "text/plain; charset=utf-8"


@implementer(IAgentEndpointFactory)
class _Only:
    """Connects to one address, whatever the URL says."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return client_endpoint(self._address)


class Web:
    """Makes requests to one server, each on a connection of its own."""

    def __init__(self, address: Address) -> None:
        self._root = f"http{'s' if address.secure else ''}://localhost"
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._client = HTTPClient(Agent.usingEndpointFactory(reactor, _Only(address), pool))

    async def get(self, path: str, /, bearer: str = "", **query: str) -> Answer:
        """GET *path* with *query*, and with a token in the headers if there is one."""
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return await self._request("GET", path, query, headers=headers)

    async def post(self, path: str, body: str, /, **query: str) -> Answer:
        """POST *body* to *path* with *query*."""
        return await self._request("POST", path, query, data=body.encode())

    async def _request(self, method: str, path: str, query: dict[str, str], **more: Any) -> Answer:
        pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        url = f"{self._root}{path}?{pairs}"
        response = await self._client.request(method, url, timeout=DEADLINE, **more)
        body: bytes = await response.content()
        (content_type,) = response.headers.getRawHeaders("Content-Type", [""])
        return Answer(response.code, body.decode(), content_type)
