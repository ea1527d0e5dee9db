"""A relay ("post office") for AceBase database processes that share database files.

The names are imported when they are first used: Twisted loads this package's
plugins, and with them this module, before it chooses a reactor.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acebase_ipc.client.errors import ClientError
    from acebase_ipc.client.service import IPCClient
    from acebase_ipc.errors import ConfigError, IPCError
    from acebase_ipc.peer.errors import PeerError
    from acebase_ipc.peer.peer import AceBasePeer
    from acebase_ipc.protocol.dialect import Dialect
    from acebase_ipc.relay.limits import Limits
    from acebase_ipc.server.clients import Client
    from acebase_ipc.server.config import AceBaseIPCServerConfig, SSLConfig
    from acebase_ipc.server.service import AceBaseIPCServer

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
    "AceBaseIPCServer": "server.service",
    "AceBaseIPCServerConfig": "server.config",
    "AceBasePeer": "peer.peer",
    "Client": "server.clients",
    "ClientError": "client.errors",
    "ConfigError": "errors",
    "Dialect": "protocol.dialect",
    "IPCClient": "client.service",
    "IPCError": "errors",
    "Limits": "relay.limits",
    "PeerError": "peer.errors",
    "SSLConfig": "server.config",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
