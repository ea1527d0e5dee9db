"""Servers that are no relay, and what stands between a client and a relay."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from tests.integration.relay_process import DEADLINE


def closed_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        number: int = port.getsockname()[1]
    return number


@contextmanager
def serving(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Call *serve* with each connection, in a thread of its own; gives the port."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()

        def each(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(DEADLINE)
                serve(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = port.accept()
                    threading.Thread(target=each, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield port.getsockname()[1]
        port.shutdown(socket.SHUT_RDWR)
        thread.join()


def saying(answer: bytes) -> AbstractContextManager[int]:
    """Send *answer* to every client, at once, and close."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    return serving(serve)


def proxy(
    port: int, change: Callable[[bytes], bytes], lifetime: float | None = None
) -> AbstractContextManager[int]:
    """Pass every connection on to *port*.

    :param change: changes the head of each request.
    :param lifetime: seconds without data after which a connection is cut.
    """

    def serve(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as server:
            back = threading.Thread(target=_pass_on, args=(server, client, lifetime), daemon=True)
            back.start()
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            server.sendall(change(head))
            _pass_on(client, server, lifetime)
            back.join()

    return serving(serve)


def _pass_on(source: socket.socket, sink: socket.socket, lifetime: float | None) -> None:
    with suppress(OSError):
        source.settimeout(lifetime)
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
