"""Checks the origin, the host and the token of a request."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.web.server import Request

from acebase_ipc.addresses import is_loopback
from acebase_ipc.http.errors import DatabaseNotServed, Unauthorized, WrongToken
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.loopback import is_loopback_ip
from acebase_ipc.protocol.handshake import parse_query


def raw_query(request: Request) -> bytes:
    """The query of a request as it was sent, not decoded."""
    query: bytes = request.uri.partition(b"?")[2]
    return query


def presented_tokens(request: Request) -> tuple[str, ...]:
    """The tokens that a request presents, in ``t`` of its query and as a Bearer."""
    token = parse_query(raw_query(request)).get("t", "")
    return (token, *bearer_tokens(request)) if token else bearer_tokens(request)


def bearer_tokens(request: Request) -> tuple[str, ...]:
    """The token that a request presents as a Bearer (RFC 6750), if there is one."""
    # As bytes, since Twisted raises for a text that is not UTF-8.
    scheme, _, bearer = (request.getHeader(b"Authorization") or b"").partition(b" ")
    token = bearer.strip().decode("utf-8", "surrogateescape")
    return (token,) if token and scheme.lower() == b"bearer" else ()


def parse_origins(origins: Iterable[str]) -> frozenset[str]:
    """*origins* as browsers send them: in lower case, without a slash at the end."""
    return frozenset(each.strip().rstrip("/").lower() for each in origins)


class Access:
    """Which origins, hosts, tokens and databases are accepted.

    :param origins: web origins whose pages may use the relay; ``*`` for all.
    :param hosts: names, beside those of loopback, by which a relay on loopback
        may be addressed without a token.
    :param databases: patterns as of a shell; wire names that match none are refused. None: all
        are accepted.
    :ivar tokens: the tokens that are valid now.
    """

    def __init__(
        self,
        tokens: Tokens,
        origins: Iterable[str],
        hosts: Iterable[str],
        databases: Iterable[str] = (),
    ) -> None:
        self.apply(tokens, origins, hosts, databases)

    def apply(
        self,
        tokens: Tokens,
        origins: Iterable[str],
        hosts: Iterable[str],
        databases: Iterable[str],
    ) -> None:
        """Accept these from now on, as the constructor."""
        self.tokens = tokens
        self._origins = parse_origins(origins)
        self._hosts = frozenset(each.strip().lower() for each in hosts)
        self._databases = tuple(databases)

    def serves(self, database: str) -> bool:
        """Return whether the database with this wire name is served."""
        patterns = self._databases
        return not patterns or any(fnmatchcase(database, each) for each in patterns)

    def revoked(self, database: str, presented: Iterable[str]) -> str | None:
        """Return why the tokens of a peer do not open *database* any more; ``None`` if they do."""
        if not self.tokens.allow(database, presented):
            return "the token is not valid any more"
        return None if self.serves(database) else "the database is not served any more"

    def check_page(self, request: Request) -> bytes | None:
        """Refuse a web page that may not use the relay; returns the origin of one that may.

        :raises Unauthorized: for another one.
        """
        origin = self.check_origin(request)
        self.check_host(request)
        return origin

    def check_origin(self, request: Request) -> bytes | None:
        """The web origin of the page that makes the request; ``None`` if no page does.

        :raises Unauthorized: if pages of this origin may not use the relay.
        """
        origin: bytes | None = request.getHeader(b"Origin")
        if origin is None:
            return None
        if "*" in self._origins or origin.decode("latin-1").lower() in self._origins:
            return origin
        raise Unauthorized("This web origin is not allowed")

    def check_host(self, request: Request) -> None:
        """Refuse a web page that has bound its own name to this machine's loopback.

        Such a page sends no Origin with a GET, but always its own name as Host. Where a
        token is required, and over a unix socket, it cannot do anything.

        :raises Unauthorized: if the host is not a name of loopback.
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
        return is_loopback_ip(name)

    def check_token(self, presented: Iterable[str], database: str | None, status: int) -> None:
        """Check the tokens that a request has *presented*, and whether the database is served.

        :param database: the database to open; ``None`` for any.
        :param status: the status of the refusal of a token.
        :raises WrongToken: if a token is required and none of them is right.
        :raises DatabaseNotServed: if the database is not served.
        """
        if not self.tokens.allow(database, presented):
            raise WrongToken(status)
        if database is not None and not self.serves(database):
            raise DatabaseNotServed
