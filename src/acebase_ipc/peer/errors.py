"""The errors of a request to another AceBase process.

::

    IPCError
    └── PeerError
        ├── RequestTimedOut (also a TimeoutError)   no result in time
        ├── PeerGone                                the other process is gone
        └── RemoteError                             it answered with an error: .reason
            └── UnknownRequest                      it does not know the type

After the first two the request may have been carried out nevertheless.
"""

from __future__ import annotations

from acebase_ipc.errors import IPCError


class PeerError(IPCError):
    """A request to another process has no result.

    :ivar peer: the id of the other process.
    """

    def __init__(self, peer: str, text: str) -> None:
        super().__init__(f"{peer}: {text}")
        self.peer = peer


class RequestTimedOut(PeerError, TimeoutError):
    """There was no result in time. Ask again only if doing it twice does no harm."""

    def __init__(self, peer: str, timeout: float) -> None:
        super().__init__(peer, f"no result within {timeout:g} s")


class PeerGone(PeerError):
    """The other process has gone, or a new one has its id. Ask again if that does no harm."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer, "gone without a result")


class RemoteError(PeerError):
    """The other process answered with an error.

    :ivar reason: its text.
    """

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(peer, reason or "failed without a reason")
        self.reason = reason


class UnknownRequest(RemoteError):
    """The other process does not know requests of this type."""
