"""A relay ("post office") for AceBase database processes that share database files.

The names are imported when they are first used: Twisted loads this package's
plugins, and with them this module, before it chooses a reactor.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acebase_ipc.client import IPCClient
    from acebase_ipc.client_errors import ClientError
    from acebase_ipc.config import AceBaseIPCServerConfig, SSLConfig
    from acebase_ipc.dialect import Dialect
    from acebase_ipc.errors import ConfigError, IPCError
    from acebase_ipc.limits import Limits
    from acebase_ipc.peer import AceBasePeer
    from acebase_ipc.peer_errors import PeerError
    from acebase_ipc.peers import Client
    from acebase_ipc.service import AceBaseIPCServer

__all__ = [
    "AceBaseIPCServer",
    "AceBaseIPCServerConfig",
    "AceBasePeer",
    "Client",
    "ClientError",
    "ConfigError",
    "Dialect",
    "IPCClient",
    "IPCError",
    "Limits",
    "PeerError",
    "SSLConfig",
]

_MODULES = {
    "AceBaseIPCServer": "service",
    "AceBaseIPCServerConfig": "config",
    "AceBasePeer": "peer",
    "Client": "peers",
    "ClientError": "client_errors",
    "ConfigError": "errors",
    "Dialect": "dialect",
    "IPCClient": "client",
    "IPCError": "errors",
    "Limits": "limits",
    "PeerError": "peer_errors",
    "SSLConfig": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
