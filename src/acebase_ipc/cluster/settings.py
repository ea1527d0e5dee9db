"""The values of the options of a cluster, and the files that they name."""

from __future__ import annotations

import math
import re
from typing import Final

from acebase_ipc.cluster.handshake import MIN_SECRET
from acebase_ipc.cluster.leases import MAX_LEASE, MIN_LEASE
from acebase_ipc.errors import ConfigError

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_MAX_PORT: Final = 65535
_MAX_SECRET: Final = 4096


def split_address(text: str) -> tuple[str, int]:
    """Return the host and the port of the address where other relays reach one.

    :param text: such as ``192.0.2.1:9165``, ``[2001:db8::1]:9165`` or ``relay1.example.org:9165``.
    :raises ConfigError: if it is none.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or int(match[2]) > _MAX_PORT:
        raise ConfigError(f"cluster_address (--cluster-address): {text!r} is not HOST:PORT")
    return match[1].strip("[]"), int(match[2])


def check_lease(seconds: float) -> float:
    """Return the length of a lease.

    :raises ConfigError: if it is too short or too long.
    """
    if not (math.isfinite(seconds) and MIN_LEASE <= seconds <= MAX_LEASE):
        raise ConfigError(f"cluster_lease must be from {MIN_LEASE:g} to {MAX_LEASE:g} seconds")
    return seconds


def read_secret(path: str) -> bytes:
    """Return the secret of a cluster, without white space at its ends.

    :raises ConfigError: if it cannot be read, or is too short.
    """
    try:
        with open(path, "rb") as file:
            secret = file.read(_MAX_SECRET + 1).strip()
    except OSError as error:
        raise ConfigError(f"cannot read the secret file {path!r}: {error.strerror}") from None
    if not MIN_SECRET <= len(secret) <= _MAX_SECRET:
        raise ConfigError(f"the secret in {path!r} must have {MIN_SECRET} to {_MAX_SECRET} bytes")
    return secret
