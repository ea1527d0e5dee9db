"""Unix sockets: a port that a killed relay has left behind can be used again.

Twisted recognises such a port by the process id in a lock file. In a container the id of the
killed process is in use again at once, so the port could never be opened again. Here the lock
is one of the system's (flock), which ends with the process that holds it, wherever that ran.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer


@implementer(IListeningPort)
class UnixPort:
    """A unix port that leaves its path alone when it is closed.

    Twisted's own removes the path even if it has become that of a successor, and does not
    close its socket if the path is gone.

    :param closed: called when the port is closed.
    :param lock: the descriptor of the locked file beside it; ``None`` without one.
    :ivar inner: Twisted's port.
    :ivar lock: the same as the parameter.
    """

    def __init__(
        self,
        port: Any,
        factory: IProtocolFactory,
        closed: Callable[[], object] = lambda: None,
        lock: int | None = None,
    ) -> None:
        self.inner = port
        self.lock = lock
        self._factory = factory
        self._closed = closed

    def startListening(self) -> None:
        """Do nothing: the port listens already."""

    def getHost(self) -> IAddress:
        """Return the address of the port."""
        address: IAddress = self.inner.getHost()
        return address

    def stopListening(self) -> Deferred[None]:
        """Close the port."""
        self._close()
        self._closed()
        return succeed(None)

    def release(self) -> None:
        """Close the descriptors, which another process has, too; path and lock stay."""
        self._close()
        if self.lock is not None:
            os.close(self.lock)

    def _close(self) -> None:
        self.inner.stopReading()
        self.inner.socket.close()
        self._factory.doStop()


@implementer(IStreamServerEndpoint)
class LockedUnixEndpoint:
    """Listens on a path of the file system that no other relay listens on.

    :param endpoint: opens the port; does not lock the path itself.
    :param lock: whether to lock ``path.lock`` while it listens.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, path: str, lock: bool) -> None:
        self._endpoint = endpoint
        self._path = path
        self._lock = lock

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; fails with ``CannotListenError`` if another process does."""
        return maybeDeferred(self._listen, factory)

    def _listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        lock_file = f"{self._path}.lock"
        lock = None
        try:
            lock = lock_path(lock_file) if self._lock else None
            remove_stale_socket(self._path)
        except OSError as error:
            release(lock_file, lock)
            raise CannotListenError(None, self._path, error) from None

        def opened(port: IListeningPort) -> UnixPort:
            return _port_at(self._path, port, factory, lock)

        def failed(failure: Any) -> Any:
            release(lock_file, lock)
            return failure

        return maybeDeferred(self._endpoint.listen, factory).addCallbacks(opened, failed)


def _port_at(path: str, port: Any, factory: IProtocolFactory, lock: int | None) -> UnixPort:
    """Return a port that removes its *path* when it is closed, and releases its *lock*."""
    own = os.stat(path, follow_symlinks=False)

    def closed() -> None:
        _remove_if_same(path, own)
        release(f"{path}.lock", lock)

    return UnixPort(port, factory, closed, lock)


@implementer(IStreamServerEndpoint)
class AdoptedEndpoint:
    """Listens on a socket on which another process listens, too, and is about to stop.

    :param descriptor: of the socket; it is closed when the endpoint listens.
    :param path: its path, which is removed at the end; ``None`` if it belongs to somebody else.
    :param lock: the descriptor of the locked file beside it.
    """

    def __init__(self, reactor: Any, descriptor: int, path: str | None, lock: int | None) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._path = path
        self._lock = lock

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept the connections of the socket."""
        return maybeDeferred(self._listen, factory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        with socket.socket(fileno=self._descriptor) as adopted:
            adopted.setblocking(False)
            port: IListeningPort = self._reactor.adoptStreamPort(
                adopted.fileno(), adopted.family, factory
            )
            if adopted.family != socket.AF_UNIX:
                return port
        if self._path is None:
            return UnixPort(port, factory)
        return _port_at(self._path, port, factory, self._lock)


def lock_path(path: str) -> int:
    """Create and lock the file *path*; returns its file descriptor for :func:`release`.

    :raises OSError: if another process holds the lock, or the file cannot be created.
    """
    while True:
        opened = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(opened, path):
                return opened
        except BlockingIOError:
            os.close(opened)
            raise OSError(errno.EADDRINUSE, "another process has locked it") from None
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)  # the process that held the lock has just removed the file


def _is_same(opened: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove_if_same(path: str, known: os.stat_result) -> None:
    """Remove *path* unless it is another file by now."""
    with contextlib.suppress(OSError):  # a file that stays does no harm
        if os.path.samestat(known, os.stat(path, follow_symlinks=False)):
            os.unlink(path)


def release(path: str, lock: int | None) -> None:
    """Remove the lock file *path* and release the *lock*, if there is one."""
    if lock is not None:
        _remove_if_same(path, os.fstat(lock))
        os.close(lock)


def remove_stale_socket(path: str) -> None:
    """Remove the socket at *path* that no process listens on; leaves any other file.

    :raises OSError: if a process listens on it.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its queue is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
