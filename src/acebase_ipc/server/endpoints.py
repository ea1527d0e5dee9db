"""Endpoint strings: each is parsed once, into a value that says what it means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from acebase_ipc.errors import ConfigError
from acebase_ipc.loopback import is_loopback_ip

SECURE_KINDS: Final = frozenset({"ssl", "tls", "pfx", "txsni", "le", "lets"})
"""Kinds of endpoints that mean TLS: Twisted's, ours, and those of the best-known plugins."""

WRAPPERS: Final = frozenset({"haproxy"})
"""Kinds whose arguments are an endpoint string again."""

LOOPBACK: Final = "127.0.0.1"

DEFAULT_BACKLOG: Final = 1024
"""Connections waiting to be accepted. After a restart all clients of a cluster connect
at once, and the npm package acebase gives up after 5 s. With Twisted's default of 50 the
others would be retried by their system after 1 s, 3 s and 7 s."""

DEFAULT_MODE: Final = "660"
"""The permissions of a ``unix:`` port; Twisted's default would let in every user."""

ADMIN_MODE: Final = "600"
"""The permissions of a ``unix:`` port of the admin endpoint."""

MAX_BACKLOG: Final = 2**31 - 1  # listen(2) takes a C int and lowers it further
MAX_PORT: Final = 2**16 - 1  # the field of TCP has 16 bits (RFC 9293, section 3.1)

INHERITED: Final = "systemd"
"""The kind of an endpoint on a socket of a service manager; with TLS what stands for its port."""

OF_SOCKET: Final = ("domain", "index", "name")
"""The arguments that choose such a socket."""

_POSITIONAL: Final = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
    "tls": ("path", "port", "backlog", "interface"),
    "pfx": ("port",),
    "unix": ("address", "mode", "backlog", "lockfile"),
    INHERITED: OF_SOCKET,
}
"""The names of positional arguments, for the kinds of endpoints that are known here."""

_TAKES_BACKLOG: Final = frozenset({"tcp", "tcp6", "ssl", "tls", "pfx", "unix"})

_TAKES_SOCKET: Final = frozenset({"ssl", "tls", "pfx"})
"""The kinds that serve TLS on a socket of a service manager, too."""

_PATHS: Final = {
    "ssl": ("privateKey", "certKey", "extraCertChain", "dhParameters"),
    "tls": ("path",),
    "pfx": ("path", "passphraseFile"),
    "unix": ("address",),
}
"""The arguments that name files."""

_SECRETS: Final = {"ssl": ("privateKey",), "pfx": ("path", "passphraseFile")}
"""The arguments that name files only the relay should be able to read."""

_PASSPHRASE = re.compile(
    r"(passphrase=)(?:[^:\\]|\\.)*"  # then the pieces of one whose colons are not escaped:
    r"(?::(?!(?:path|passphraseFile|interface|backlog)=)(?:[^:\\]|\\.)*)*",
    re.DOTALL,
)


def redact(text: str) -> str:
    """Return an endpoint string without its passphrase, even if it is malformed."""
    return _PASSPHRASE.sub(r"\1…", text)


@dataclass(frozen=True, slots=True)
class ParsedEndpoint:
    """An endpoint string, parsed.

    :ivar text: the string as it was given; may hold a passphrase.
    :ivar wrappers: the kinds that wrap the endpoint, outermost first, as in ``haproxy:tcp:1``.
    :ivar kind: the kind of the innermost endpoint, in lower case.
    :ivar arguments: the arguments of a known kind, by name. Paths are absolute.
    :ivar inner: the innermost endpoint's string as it was given; may hold a passphrase.
    """

    text: str = field(repr=False)
    wrappers: tuple[str, ...]
    kind: str
    arguments: dict[str, str] = field(repr=False)
    inner: str = field(repr=False)

    @property
    def is_known(self) -> bool:
        """Whether the arguments of this kind are known here; else a plugin reads them."""
        return self.kind in _POSITIONAL

    @property
    def is_secure(self) -> bool:
        """Whether connections use TLS."""
        return self.kind in SECURE_KINDS

    @property
    def is_number(self) -> bool:
        """Whether it is the number of a port of loopback alone."""
        return self.text.isdecimal()

    @property
    def is_inherited(self) -> bool:
        """Whether it is on a socket that a service manager holds."""
        on_socket = self.kind in _TAKES_SOCKET and self.arguments.get("port") == INHERITED
        return on_socket or self.kind == INHERITED

    @property
    def mode(self) -> int:
        """The permissions of a ``unix:`` port."""
        return int(self.arguments.get("mode", DEFAULT_MODE), 8)

    @property
    def redacted(self) -> str:
        """The string without its passphrase, for logs and errors."""
        return redact(self.text)

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files that only the relay should be able to read."""
        names = _SECRETS.get(self.kind, ())
        return tuple(self.arguments[name] for name in names if name in self.arguments)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it reads; those that are in its directory now."""
        if self.kind == "unix":
            return ()
        if self.kind == "tls":
            directory = self.arguments["path"]
            return (directory, *sorted(map(str, Path(directory).rglob("*"))))
        names = _PATHS.get(self.kind, ())
        return tuple(self.arguments[name] for name in names if name in self.arguments)

    @property
    def description(self) -> str:
        """The innermost endpoint for ``serverFromString``, with absolute paths and a backlog."""
        if not self.is_known:
            return self.inner
        arguments = dict(self.arguments)
        if self.kind in _TAKES_BACKLOG:
            arguments.setdefault("backlog", str(DEFAULT_BACKLOG))
        if self.kind == "unix":
            arguments["mode"] = f"{self.mode:o}"
            arguments["lockfile"] = "0"  # see unix_socket.py
        return render(self.kind, arguments)


def render(kind: str, arguments: dict[str, str]) -> str:
    """Return the endpoint string of *kind* with these *arguments*."""
    return ":".join([kind, *(f"{name}={_quote(value)}" for name, value in arguments.items())])


def _quote(value: str) -> str:
    return value.replace("\\", "\\\\").replace(":", "\\:")


def parse_endpoint(text: str) -> ParsedEndpoint:
    """Parse an endpoint string, or the number of a TCP port of loopback.

    A string of a kind that is not known here is taken as it is: a plugin of Twisted's
    may know it.

    :raises ConfigError: if the string is malformed or an argument is out of its range.
    """
    wrappers = []
    inner = f"tcp:{text}:interface={LOOPBACK}" if re.fullmatch("[0-9]+", text) else text
    kind, _, rest = inner.partition(":")
    while kind.lower() in WRAPPERS:
        wrappers.append(kind.lower())
        inner = rest
        kind, _, rest = inner.partition(":")
    kind = kind.lower()  # Twisted finds the prefixes of plugins in any case
    try:
        arguments = _parse_arguments(kind, rest) if kind in _POSITIONAL else {}
        _check(kind, arguments)
    except ValueError as error:
        raise ConfigError(f"cannot listen on {redact(text)!r}: {error}") from None
    for name in _PATHS.get(kind, ()):
        if arguments.get(name):
            arguments[name] = os.path.abspath(arguments[name])
    if kind == "tls" and arguments.setdefault("port", "443") != INHERITED:
        arguments.setdefault("interface", "::")  # as Twisted has it
    return ParsedEndpoint(text, tuple(wrappers), kind, arguments, inner)


def absolute_endpoint(text: str, directory: str) -> str:
    """Return the endpoint string *text* with its relative paths below *directory*.

    :raises ConfigError: as :func:`parse_endpoint`.
    """
    parsed = parse_endpoint(text)
    if not parsed.is_known:
        return text
    given = _parse_arguments(parsed.kind, parsed.inner.partition(":")[2])
    paths = {
        name: os.path.join(directory, given[name])
        for name in _PATHS.get(parsed.kind, ())
        if given.get(name)
    }
    if all(given[name] == path for name, path in paths.items()):
        return text
    return ":".join([*parsed.wrappers, render(parsed.kind, given | paths)])


def parse_admin(text: str, has_token: bool) -> ParsedEndpoint:
    """Parse the endpoint string of an admin endpoint.

    A unix socket is open to the relay's own user, unless the string has another mode.

    :param has_token: whether a token is required over TCP.
    :raises ConfigError: if the string cannot be used, or is open to others without a token.
    """
    parsed = parse_endpoint(text)
    where = f"--admin {parsed.redacted!r}"
    if parsed.wrappers:
        raise ConfigError(f"{where}: the PROXY protocol is not accepted here")
    if parsed.kind == "unix":
        arguments = {"mode": ADMIN_MODE, **parsed.arguments}
        parsed = replace(parsed, arguments=arguments)
        if parsed.mode & 0o007:
            raise ConfigError(f"{where}: mode must not let every user in")
    elif parsed.is_known and not parsed.is_inherited and not has_token:
        interface = parsed.arguments.get("interface", "")
        if not is_loopback_ip(interface):
            raise ConfigError(
                f"{where}: it is open to the network: give --admin-token-file, or"
                " :interface=127.0.0.1"
            )
    return parsed


def _parse_arguments(kind: str, text: str) -> dict[str, str]:
    """Return the arguments of a known *kind* by name.

    :raises ValueError: if they are malformed; its text holds no value of a ``pfx:`` endpoint,
        which can be a part of a passphrase.
    """
    names = iter(_POSITIONAL[kind])
    arguments: dict[str, str] = {}
    for name, value in _split(text):
        if name is None:
            name = next(names, None)
            if name is None:
                raise ValueError(f"too many arguments for {kind}: (write ':' in a value as '\\:')")
        if name in arguments:
            raise ValueError(f"{name} is given twice")
        arguments[name] = value
    return arguments


def _split(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield each argument's name, ``None`` for a positional one, and its value."""
    for argument in re.findall(r"(?:^|:)((?:[^:\\]|\\.)*)", text, re.DOTALL) if text else ():
        match = re.fullmatch(r"((?:[^=\\]|\\.)*)=(.*)", argument, re.DOTALL)
        name, value = (None, argument) if match is None else match.groups()
        yield name and _unescape(name), _unescape(value)
    if re.search(r"(?<!\\)(?:\\\\)*\\$", text):
        raise ValueError("it ends with a backslash (write '\\' in a value as '\\\\')")


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _check(kind: str, arguments: dict[str, str]) -> None:
    """Refuse what Twisted passes on to a system call that cannot take it."""
    port = arguments.get("port")
    if kind in ("tcp", "tcp6", "ssl", "pfx") and port is None:
        raise ValueError("the port is missing")
    if kind == "ssl" and not arguments.get("privateKey"):
        raise ValueError(
            f"the key is missing: write ssl:{port}:privateKey=key.pem:certKey=certificate.pem"
        )
    if kind == "tls" and (not arguments.get("path") or arguments["path"].isdecimal()):
        raise ValueError(
            "the directory is missing: write tls:DIRECTORY:9163, where DIRECTORY holds a"
            " HOST.pem for each host name, or use ssl:"
        )
    if kind in _TAKES_SOCKET:
        _check_socket(kind, arguments)
    if port != INHERITED or kind not in _TAKES_SOCKET:
        _check_number("port", port, MAX_PORT)
    _check_number("backlog", arguments.get("backlog"), MAX_BACKLOG)
    if kind == "unix":
        if not arguments.get("address"):
            raise ValueError("the path is missing")
        if not re.fullmatch("[0-7]{1,4}", arguments.get("mode", "660")):
            raise ValueError("mode is an octal number such as 660")
        if arguments.get("lockfile", "1") not in ("0", "1"):
            raise ValueError("lockfile is 0 or 1")


def _check_socket(kind: str, arguments: dict[str, str]) -> None:
    """Refuse arguments that belong to a port, or to a socket of a service manager, for the other.

    :raises ValueError: if there is one.
    """
    is_inherited = arguments.get("port") == INHERITED
    others = ("interface", "backlog") if is_inherited else OF_SOCKET
    wrong = [name for name in others if name in arguments]
    if wrong and is_inherited:
        raise ValueError(f"{wrong[0]} is that of the inherited socket: leave it out")
    if wrong:
        raise ValueError(f"{wrong[0]} needs an inherited socket: write {kind}:port={INHERITED}")


def _check_number(name: str, text: str | None, highest: int) -> None:
    if text is not None and not (re.fullmatch("[0-9]{1,10}", text) and int(text) <= highest):
        raise ValueError(f"the {name} is not a whole number from 0 to {highest}")
