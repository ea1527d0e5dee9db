"""The command line: ``twistd acebase-ipc``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from twisted.application.service import IService
from twisted.logger import ILogObserver
from twisted.python import usage

from acebase_ipc.errors import ConfigError
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import Limit, Limits, format_size, parse_size
from acebase_ipc.server.config import DEFAULT_HOST, DEFAULT_PORT, AceBaseIPCServerConfig
from acebase_ipc.server.daemon import Daemon
from acebase_ipc.server.logging import log_file, log_observer
from acebase_ipc.server.service import __version__

DEFAULT_ENDPOINT = f"tcp:{DEFAULT_PORT}:interface={DEFAULT_HOST}"
TOKEN_VARIABLE = "ACEBASE_IPC_TOKEN"


LONGDESC = f"""
Relays lock requests, cache notifications and data events between AceBase
processes that share database files. Without options it listens on
{DEFAULT_ENDPOINT}, for processes of this machine only.

Two examples:

    twistd -n acebase-ipc --port tcp:9163:interface=127.0.0.1
    twistd -n acebase-ipc --port ssl:9163:privateKey=key.pem --token-file token.txt

A port is a Twisted endpoint string: tcp:, ssl:, tls:, unix:, systemd: and more,
and pfx:9163:path=server.pfx:passphraseFile=secret.txt for a PKCS#12 bundle.
An encrypted PEM key cannot be given to ssl:, which knows no passphrase: put it
into a bundle for pfx: with

    openssl pkcs12 -export -inkey key.pem -in cert.pem -out server.pfx

Without --token and --token-file the token is taken from the environment
variable {TOKEN_VARIABLE}. Sizes are numbers, or like 16KiB, 16MiB, 1GiB.
"""


def limit_parameters() -> Iterator[list[Any]]:
    """An option for every limit."""
    for each in fields(Limits):
        limit: Limit = each.metadata["limit"]
        is_time = limit.unit == "seconds"
        default = "16KiB, with TLS 16MiB" if each.name == "max_payload" else "off"
        if isinstance(each.default, int | float):
            default = format_size(each.default) if limit.unit == "bytes" else f"{each.default:g}"
        text = f"{limit.unit[0].upper()}{limit.unit[1:]}: {limit.summary}. [default: {default}]"
        yield [each.name.replace("_", "-"), None, None, text, float if is_time else parse_size]


def dialect(text: str) -> Dialect | None:
    """Coerce a dialect; ``auto`` is ``None``."""
    if text == "auto":
        return None
    try:
        return Dialect(text)
    except ValueError:
        raise ConfigError("it is auto, documented or acebase") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Coerces a word that has to be one of *choices*."""

    def coerce(text: str) -> str:
        if text not in choices:
            raise ConfigError(f"it is one of {', '.join(choices)}")
        return text

    return coerce


class Options(usage.Options):
    """The options of ``twistd acebase-ipc``."""

    synopsis = "[--port <endpoint>]… [--token-file <file>] [options]"

    longdesc: str = LONGDESC

    optParameters: list[list[Any]] = [
        ["token", None, None, "The secret that clients must present; visible in 'ps'."],
        [
            "token-file",
            None,
            None,
            "Read tokens from this file: lines of [<database pattern>] <token>.",
        ],
        [
            "dialect",
            None,
            None,
            "All peers are 'documented' or 'acebase' clients. [default: auto, recognise it]",
            dialect,
        ],
        [
            "log-format",
            None,
            None,
            "How the log is written: text, or json (an object per line). [default: text]",
            one_of("text", "json"),
        ],
        [
            "log-level",
            None,
            None,
            "What the log leaves out: all below debug, info, warn or error. [default: info]",
            one_of("debug", "info", "warn", "error"),
        ],
        *limit_parameters(),
    ]

    optFlags: list[list[Any]] = [
        ["no-introductions", None, "Do not greet AceBase workers on each other's behalf."],
    ]

    compData = usage.Completions(
        optActions={
            "token-file": usage.CompleteFiles(),
            "dialect": usage.CompleteList(["auto", "documented", "acebase"]),
            "log-format": usage.CompleteList(["text", "json"]),
            "log-level": usage.CompleteList(["debug", "info", "warn", "error"]),
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self["ports"] = []
        self["origins"] = []
        self["hosts"] = []

    def opt_port(self, description: str) -> None:
        """An endpoint to listen on; may be given more than once."""
        self["ports"].append(description)

    opt_p = opt_port

    def opt_allow_origin(self, origin: str) -> None:
        """Let web pages of this origin, like https://example.org, use the relay."""
        self["origins"].append(origin)

    def opt_allow_host(self, name: str) -> None:
        """Let a relay on loopback without a token be addressed by this name, too."""
        self["hosts"].append(name)

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"acebase-ipc {__version__}\n")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """The help; Twisted would join the paragraphs of a description into one."""
        self.longdesc = ""
        return f"{super().getUsage(width)}{LONGDESC}"

    def postOptions(self) -> None:
        """Read the token and check all values together.

        :raises UsageError: for values that cannot be used.
        """
        try:
            self["config"] = AceBaseIPCServerConfig(
                endpoints=tuple(self["ports"] or [DEFAULT_ENDPOINT]),
                token=self._token(),
                token_file=self["token-file"],
                dialect=self["dialect"],
                introductions=not self["no-introductions"],
                allow_origins=tuple(self["origins"]),
                allow_hosts=tuple(self["hosts"]),
                **self._limits(),
            )
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None

    def log_observer(self) -> ILogObserver | None:
        """What writes the log, unless it is to be ``twistd``'s own."""
        twistd: Any = self.parent
        if twistd is None or not (self["log-format"] or self["log-level"]):
            return None
        file = log_file(twistd.get("logfile"), not twistd.get("nodaemon"))
        return log_observer(file, self["log-format"] or "text", self["log-level"] or "info")

    def _limits(self) -> dict[str, Any]:
        given = {each.name: self[each.name.replace("_", "-")] for each in fields(Limits)}
        return {name: value for name, value in given.items() if value is not None}

    def _token(self) -> str | None:
        if self["token"] is None and self["token-file"] is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        token: str | None = self["token"]
        return token


def makeService(options: Options) -> IService:
    """The relay that *options* describe.

    :raises SystemExit: with one line of text, if it cannot listen as described.
    """
    from twisted.internet import reactor

    try:
        return Daemon(options["config"], reactor, options.log_observer())
    except ConfigError as error:
        raise SystemExit(f"acebase-ipc: {error}") from None
