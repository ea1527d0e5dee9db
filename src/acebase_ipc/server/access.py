"""Values of the configuration that decide about access: tokens, web origins, host names.

Each is brought into the one form in which it is compared later. A value that could never
match is refused.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from acebase_ipc.errors import ConfigError
from acebase_ipc.http.proxies import UNIX

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)

_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")


def clean_token(token: str, source: str) -> str:
    """Return *token* without the white space around it, which no client can present.

    :param source: the name of the option or variable, for the error.
    :raises ConfigError: if it is empty, or cannot be encoded as UTF-8.
    """
    token = token.removeprefix("\ufeff").strip()
    if not token:
        raise ConfigError(f"{source} must not be empty: leave it out to require no token")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{source} must be text that can be encoded as UTF-8") from None
    return token


def clean_database(pattern: str) -> str:
    """Return a *pattern* of wire names.

    :raises ConfigError: if it is empty, as it would match none.
    """
    if not pattern:
        raise ConfigError("databases (--database) must not be empty: write mydb_data or mydb_*")
    return pattern


def clean_origin(origin: str) -> str:
    """Return *origin* as browsers send it: in lower case, without a default port.

    :raises ConfigError: if no browser sends such an origin.
    """
    text = origin.strip().lower()
    if text in ("*", "null"):
        return text

    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"allow_origins (--allow-origin): {origin!r} {reason}")

    if "://" not in text:
        raise refuse("has no scheme: write it as https://example.org")
    if not text.isascii():
        raise refuse("is not ASCII: browsers send such a name as xn--…")
    if "*" in text:
        raise refuse("has a wildcard: give each origin, or * alone for all")
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise refuse("is not an origin: write only scheme, host and port, as https://example.org")
    scheme, host, port = match["scheme"], match["host"], match["port"]
    if port is not None and int(port) > 65535:
        raise refuse("has an impossible port")
    port = port and str(int(port))
    return f"{scheme}://{host}" + (
        f":{port}" if port not in (None, _DEFAULT_PORTS.get(scheme)) else ""
    )


def clean_network(network: str) -> str:
    """Return an address or *network* of trusted proxies in its usual form, or ``unix``.

    :raises ConfigError: if it is neither.
    """
    text = network.strip().lower()
    if text == UNIX:
        return text
    try:
        found = ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trust_proxy (--trust-proxy): {error}") from None
    if found.version == 6 and found.network_address.ipv4_mapped is not None:
        raise ConfigError(f"trust_proxy (--trust-proxy): write {network!r} as IPv4")
    return str(found)


def clean_host(host: str) -> str:
    """Return the *host* name as it is compared: in lower case, an IPv6 address without brackets.

    :raises ConfigError: if no request can name such a host.
    """
    text = host.strip().lower()

    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"allow_hosts (--allow-host): {host!r} {reason}")

    if "/" in text:
        raise refuse("is a URL: write the host name alone")
    if "*" in text:
        raise refuse("has a wildcard: give each host name")
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if ":" in text:
        raise refuse("has a port: write the host name alone, which allows every port")
    if not text.isascii():
        raise refuse("is not ASCII: browsers send such a name as xn--…")
    if not _HOST.fullmatch(text):
        raise refuse("is not a host name")
    return text
