"""A log that nobody reads, for Autobahn, which logs whatever it does.

Its 17 lines for each connection cost a server a tenth of making it even if they are
thrown away later. What peers do wrong is reported elsewhere. A client's would hold
the whole handshake, with the token in it.
"""

from __future__ import annotations


class NullLogger:
    """A logger, as far as Autobahn is concerned."""

    def debug(self, *words: object, **values: object) -> None:
        """Say nothing."""

    info = warn = error = critical = failure = trace = debug
