"""A log that nobody reads, for Autobahn, which logs whatever it does.

Its 17 lines for each connection cost a server a tenth of making it even if they are
thrown away later. What peers do wrong is reported elsewhere. A client's would hold
the whole handshake, with the token in it.
"""

from __future__ import annotations

from twisted.web.http import HTTPChannel


class NullLogger:
    """A logger, as far as Autobahn is concerned."""

    def debug(self, *words: object, **values: object) -> None:
        """Say nothing."""

    info = warn = error = critical = failure = trace = debug


# twisted.web

REFUSES_BAD_REQUESTS = hasattr(HTTPChannel, "_respondToBadRequestAndDisconnect")
"""Whether Twisted refuses what it cannot parse in the method that is replaced here.
If not, its own answer remains: a status of 400 without a text."""


class BadRequestChannel(HTTPChannel):
    """An HTTP connection that decides itself how to answer what Twisted cannot parse."""

    def bad_request(self) -> None:
        """Answer a request that cannot be parsed, and close the connection."""
        raise NotImplementedError

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.bad_request()
