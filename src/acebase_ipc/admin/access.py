"""Decides who may use the admin endpoint."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from twisted.internet.address import UNIXAddress
from twisted.web.server import Request

from acebase_ipc.addresses import is_loopback
from acebase_ipc.http.auth import Access, bearer_tokens
from acebase_ipc.http.errors import Unauthorized
from acebase_ipc.http.tokens import Tokens

INTENT: Final = b"X-AceBase-IPC"
"""The header of a request that changes something. A web page can send it to its own host
only, unless that allows it, which this one does not."""


class AdminAccess:
    """Accepts every request over a unix socket, and over TCP those with a token.

    Without a token file, a request over TCP is accepted on loopback only.

    :param tokens: those of the token file, or none.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._access = Access(tokens, (), ())

    @property
    def tokens(self) -> Tokens:
        """The tokens that are valid now."""
        return self._access.tokens

    @tokens.setter
    def tokens(self, tokens: Tokens) -> None:
        self._access.tokens = tokens

    def check_page(self, request: Request) -> None:
        """Refuse the pages of other hosts, and of names that are bound to loopback.

        :raises Unauthorized: with 403.
        """
        address = request.getHost()
        if isinstance(address, UNIXAddress):
            return
        if not self.tokens.required and not is_loopback(address):
            raise Unauthorized("Without a token, only processes of this machine are allowed")
        self._access.check_host(request)
        origin = request.getHeader(b"Origin")
        if origin is not None and not _is_own(origin, request.getHeader(b"Host")):
            raise Unauthorized("This web origin is not allowed")

    def check_token(self, request: Request) -> None:
        """Refuse a request over TCP without the token, if one is required.

        :raises WrongToken: with 401.
        """
        if not isinstance(request.getHost(), UNIXAddress):
            self._access.check_token(bearer_tokens(request), None, HTTPStatus.UNAUTHORIZED)

    def check_intent(self, request: Request) -> None:
        """Refuse a request to change something that a page of another host could have sent.

        :raises Unauthorized: with 403, without the header.
        """
        if request.getHeader(INTENT) != b"1":
            raise Unauthorized(f"The header {INTENT.decode()}: 1 is missing")


def _is_own(origin: bytes, host: bytes | None) -> bool:
    """Return whether *origin* is that of the status page itself."""
    try:
        return host is not None and urlsplit(origin.lower()).netloc == host.lower()
    except ValueError:
        return False
