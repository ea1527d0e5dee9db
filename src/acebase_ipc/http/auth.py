"""What is checked before a request is answered: its origin, its host, its token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from acebase_ipc.addresses import host_of, is_loopback
from acebase_ipc.http.errors import Unauthorized, WrongToken
from acebase_ipc.http.tokens import FREE_FAILURES, Failures, Tokens
from acebase_ipc.protocol.errors import MessageRefused, RequestRefused
from acebase_ipc.protocol.handshake import parse_query
from acebase_ipc.relay.events import Observer, Refused, TokenGuessing

FAILURE_DELAY = 2.0
"""Seconds by which the answer to one wrong token too many is delayed."""

MAX_DELAYED = 100
"""Answers that are delayed at the same time; more are given at once, as waiting
costs us a connection and the other side nothing."""

log = Logger()


def raw_query(request: Request) -> bytes:
    """The query of a request as it was sent: not yet decoded."""
    query: bytes = request.uri.partition(b"?")[2]
    return query


def presented_tokens(request: Request) -> tuple[str, ...]:
    """The tokens that a request presents: ``t`` of its query, or a Bearer's."""
    tokens = [parse_query(raw_query(request)).get("t", "")]
    # As bytes, since Twisted raises for a text that is not UTF-8.
    scheme, _, bearer = (request.getHeader(b"Authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        tokens.append(bearer.strip().decode("utf-8", "surrogateescape"))
    return tuple(filter(None, tokens))


def parse_origins(origins: Iterable[str]) -> frozenset[str]:
    """Origins as browsers send them: lower case, without a slash at the end."""
    return frozenset(each.strip().rstrip("/").lower() for each in origins)


class Access:
    """Lets requests in, or not.

    A token that is right is let in whatever else happens; wrong ones are only
    answered more slowly, if there are many from one address.

    :param origins: web origins whose pages may use the relay; ``*`` for all.
    :param hosts: names, beside those of loopback, by which a relay on loopback
        may be addressed without a token.
    :param clock: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        tokens: Tokens,
        origins: Iterable[str],
        hosts: Iterable[str],
        observer: Observer,
        reactor: IReactorTime,
        clock: Callable[[], float],
    ) -> None:
        self.tokens = tokens
        self._origins = parse_origins(origins)
        self._hosts = frozenset(each.strip().lower() for each in hosts)
        self._observer = observer
        self._reactor = reactor
        self._clock = clock
        self._failures = Failures()
        self._delayed = 0

    def check_origin(self, request: Request) -> bytes | None:
        """The web origin of a page that makes the request, if it is one.

        :raises Unauthorized: if its pages may not use the relay.
        """
        origin: bytes | None = request.getHeader(b"Origin")
        if origin is None:
            return None
        if "*" in self._origins or origin.decode("latin-1").lower() in self._origins:
            return origin
        raise Unauthorized("This web origin is not allowed")

    def check_host(self, request: Request) -> None:
        """Refuse a web page that has bound its own name to this machine's loopback.

        Such a page sends no Origin with a GET, but always its name as Host. With
        a token, or over a unix socket, it cannot do anything.

        :raises Unauthorized: if the host is no name of loopback.
        """
        host: bytes | None = request.getHeader(b"Host")
        address = request.getHost()
        if (
            host is not None
            and not self.tokens.required
            and isinstance(address, IPv4Address | IPv6Address)
            and is_loopback(address)
            and not self._is_local_name(host.decode("latin-1"))
        ):
            raise Unauthorized("This host name is not allowed")

    def _is_local_name(self, host: str) -> bool:
        name = host.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def check_token(self, request: Request, database: str | None, status: int) -> None:
        """Check the token ``t`` of the query, or of an ``Authorization: Bearer``.

        :param database: what it has to open; ``None`` for any one.
        :param status: the status of the refusal.
        :raises WrongToken: if a token is required and none of the two is right.
        """
        if not self.tokens.allow(database, presented_tokens(request)):
            raise WrongToken(status)

    def refuse(
        self,
        request: Request,
        refusal: MessageRefused | RequestRefused,
        answer: Callable[[], object],
    ) -> None:
        """Count a *refusal*, and call *answer* to give it: at once or after a while."""
        address = host_of(request.getClientAddress())
        self._observer.report(Refused(address, refusal.status, str(refusal)))
        failures = 0
        if isinstance(refusal, WrongToken):
            failures = self._failures.note(address, self._clock())
            if failures == FREE_FAILURES + 1:
                self._observer.report(TokenGuessing(address))
        if failures > FREE_FAILURES and self._delayed < MAX_DELAYED:
            self._delayed += 1
            self._reactor.callLater(FAILURE_DELAY, self._answer_late, answer)
        else:
            answer()

    def _answer_late(self, answer: Callable[[], object]) -> None:
        self._delayed -= 1
        answer()
