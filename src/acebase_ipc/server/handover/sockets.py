"""The listening sockets that a relay takes over, and the reactor with which it listens on them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from zope.interface import directlyProvides, providedBy

from acebase_ipc.server.endpoints import OF_SOCKET, ParsedEndpoint, parse_endpoint, render

PEERS: Final = "peers"
ADMIN: Final = "admin"

_PLACE: Final = ("interface", "port", "address")
"""The arguments that say where an endpoint listens; the others say how."""


def place_of(parsed: ParsedEndpoint, role: str) -> str:
    """Return where an endpoint listens: that of another one is the same if it can have its socket.

    Whether it uses TLS or begins with a PROXY header does not matter.

    :param role: whom it is for: :data:`PEERS` or :data:`ADMIN`.
    """
    if not parsed.is_known:
        return f"{role} {parsed.inner}"
    kind = parsed.kind if parsed.kind == "unix" else "tcp"
    arguments, names = parsed.arguments, _PLACE
    if parsed.is_inherited:
        kind, names = "systemd", OF_SOCKET
    if parsed.kind == "tcp6":
        arguments = {"interface": "::", **arguments}
    given = (f"{name}={arguments[name]}" for name in names if arguments.get(name))
    return " ".join((role, kind, *given))


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket that another process listens on.

    :ivar place: where, as :func:`place_of` tells.
    :ivar descriptor: of the socket.
    :ivar lock: the descriptor of the locked file beside a unix socket; ``None`` without one.
    """

    place: str
    descriptor: int
    lock: int | None


class InheritedSockets:
    """The listening sockets of a predecessor, each to be used once."""

    def __init__(self, sockets: Iterable[ListeningSocket] = ()) -> None:
        self._unused = list(sockets)

    def take(self, parsed: ParsedEndpoint, role: str) -> ListeningSocket | None:
        """Return the socket for an endpoint; ``None`` if the predecessor had none there."""
        place = place_of(parsed, role)
        for each in self._unused:
            if each.place == place:
                self._unused.remove(each)
                return each
        return None

    def each_systemd(self, endpoint: ParsedEndpoint, role: str) -> list[ParsedEndpoint]:
        """Return an endpoint for each socket of a service manager, in place of *endpoint*."""
        prefix = f"{role} systemd "
        places = [each.place for each in self._unused if each.place.startswith(prefix)]
        found = []
        for place in places:
            parts = place.removeprefix(prefix).split(" ")
            of_socket = dict(each.split("=", 1) for each in parts)
            inner = render(endpoint.kind, {**endpoint.arguments, **of_socket})
            found.append(parse_endpoint(":".join((*endpoint.wrappers, inner))))
        return found

    def close(self) -> None:
        """Close the sockets that no endpoint has taken."""
        unused, self._unused = self._unused, []
        for each in unused:
            for descriptor in descriptors_of(each):
                os.close(descriptor)


def descriptors_of(listening: ListeningSocket) -> Iterator[int]:
    """Yield the descriptors of a listening socket."""
    yield listening.descriptor
    if listening.lock is not None:
        yield listening.lock


class AdoptingReactor:
    """A reactor that listens on a socket which it is given, wherever it is asked to listen.

    So an endpoint of any kind can be used with a socket that listens already.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on the socket."""
        return self._adopt(factory)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> IListeningPort:
        """Listen on the socket."""
        return self._adopt(factory)

    def _adopt(self, factory: IProtocolFactory) -> IListeningPort:
        with socket.socket(fileno=self._descriptor) as adopted:
            adopted.setblocking(False)
            port: IListeningPort = self._reactor.adoptStreamPort(
                adopted.fileno(), adopted.family, factory
            )
            return port
