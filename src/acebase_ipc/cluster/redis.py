"""Sends the commands of a relay to Redis, with txredisapi.

txredisapi is what Synapse uses, is kept, speaks Redis' protocol in a Twisted ``Protocol``, and
needs nothing else. Only that protocol is used here: its pools reconnect by themselves and hide why
a connection has failed, which a relay has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS

from acebase_ipc.cluster.leases import Command, Reply
from acebase_ipc.cluster.redis_url import RedisURL
from acebase_ipc.cluster.store import (
    DEFAULT_PREFIX,
    SCRIPT,
    StoreFailed,
    arguments,
    keys,
    parse_reply,
)
from acebase_ipc.errors import ConfigError

_DIGEST: Final = sha1(SCRIPT.encode()).hexdigest()


class StoreDown(StoreFailed):
    """No Redis runs at its address: the kernel of this machine has said so.

    :ivar sent_at: when it was asked, in monotonic seconds.
    """

    def __init__(self, reason: str, sent_at: float) -> None:
        super().__init__(reason)
        self.sent_at = sent_at


def load_client() -> Any:
    """Return the module txredisapi.

    :raises ConfigError: if it is not installed.
    """
    try:
        import txredisapi
    except ImportError:
        raise ConfigError(
            "a cluster needs txredisapi: pip install 'acebase-ipc[cluster]'"
        ) from None
    return txredisapi


class RedisStore:
    """Runs commands in a Redis, over one connection that is made when it is needed.

    :param timeout: seconds in which a command has to be answered. After it the connection is
        ended, and the next command makes another one.
    :param clock: returns monotonic seconds.
    :raises ConfigError: if txredisapi is not installed.
    """

    def __init__(
        self,
        url: RedisURL,
        reactor: Any,
        timeout: float,
        clock: Callable[[], float],
        prefix: str = DEFAULT_PREFIX,
    ) -> None:
        self._api = load_client()
        self._url = url
        self._reactor = reactor
        self._timeout = timeout
        self._clock = clock
        self._keys = keys(prefix)
        self._endpoint = _endpoint(url, reactor)
        # At a TCP address, a tunnel or a proxy may refuse the connection to a Redis that runs.
        self._is_near = url.socket is not None
        self._factory = Factory.forProtocol(
            lambda: self._api.RedisProtocol(charset=None, convertNumbers=False)
        )
        self._factory.noisy = False
        self._protocol: Any = None
        self._connecting: list[Deferred[Any]] | None = None

    def run(self, command: Command) -> Deferred[Reply]:
        """Run a command; fires with the answer.

        Fails with :exc:`StoreDown`, or with :exc:`StoreFailed` if it is not known whether it was
        run.
        """
        running = Deferred.fromCoroutine(self._run(arguments(command)))
        running.addTimeout(self._timeout, self._reactor)
        running.addErrback(self._failed)
        return running

    async def _run(self, values: list[str | bytes]) -> Reply:
        protocol = self._protocol
        if protocol is None or not protocol.connected:
            protocol = await self._connected()
        run = protocol.execute_command
        rest = (len(self._keys), *self._keys, *values)
        try:
            answer = await run("EVALSHA", _DIGEST, *rest)
        except self._api.ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            answer = await run("EVAL", SCRIPT, *rest)
        return parse_reply(answer)

    def _failed(self, failure: Any) -> Any:
        if failure.check(StoreFailed):
            return failure
        self.close()  # an answer that comes late must not be taken for that of another command
        if failure.check(TimeoutError):
            raise StoreFailed(f"Redis at {self._url.description} has not answered in time")
        raise StoreFailed(f"Redis at {self._url.description}: {failure.value}")

    def _connected(self) -> Deferred[Any]:
        """Return a Deferred that fires with a connection, or fails; all wait for the same one."""
        waiting: Deferred[Any] = Deferred()
        if self._connecting is not None:
            self._connecting.append(waiting)
            return waiting
        self._connecting = [waiting]
        connecting = Deferred.fromCoroutine(self._connect())
        connecting.addTimeout(self._timeout, self._reactor)
        connecting.addBoth(self._end_connecting)
        return waiting

    def _end_connecting(self, result: Any) -> None:
        waiting, self._connecting = self._connecting or [], None
        for each in waiting:
            if not each.called:
                each.callback(result)

    async def _connect(self) -> Any:
        sent_at = self._clock()
        try:
            protocol: Any = await self._endpoint.connect(self._factory)
        except ConnectionRefusedError:
            reason = f"nothing listens at {self._url.description}"
            if self._is_near:
                raise StoreDown(reason, sent_at) from None
            raise StoreFailed(reason) from None
        try:
            if self._url.password is not None:
                user = () if self._url.username is None else (self._url.username,)
                await protocol.execute_command("AUTH", *user, self._url.password)
            if self._url.db:
                await protocol.execute_command("SELECT", self._url.db)
        except BaseException:
            protocol.transport.abortConnection()
            raise
        self._protocol = protocol
        return protocol

    def close(self) -> None:
        """End the connection; the next command makes another one."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abortConnection()


def _endpoint(url: RedisURL, reactor: Any) -> IStreamClientEndpoint:
    if url.socket is not None:
        return UNIXClientEndpoint(reactor, url.socket)
    plain = HostnameEndpoint(reactor, url.host, url.port)
    if not url.is_secure:
        return plain
    return wrapClientTLS(optionsForClientTLS(url.host), plain, reactor)
