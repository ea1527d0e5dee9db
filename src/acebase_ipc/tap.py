"""The command line: ``twistd acebase-ipc``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.metadata import version
from typing import IO, Any

from twisted.application.service import IService
from twisted.logger import LogLevel
from twisted.python import usage

from acebase_ipc.errors import ConfigError
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import Limit, Limits, format_size, parse_size
from acebase_ipc.server.access import clean_token
from acebase_ipc.server.config import DEFAULT_HOST, DEFAULT_PORT, AceBaseIPCServerConfig
from acebase_ipc.server.logging import (
    FileOutput,
    LineObserver,
    Output,
    StreamOutput,
    SyslogOutput,
)
from acebase_ipc.server.process import Signals, remove_stale_pid_file

DEFAULT_ENDPOINT = f"tcp:{DEFAULT_PORT}:interface={DEFAULT_HOST}"
TOKEN_VARIABLE = "ACEBASE_IPC_TOKEN"


LONGDESC = f"""
Relays lock requests, cache notifications and data events between AceBase
processes that share database files. Without --port it listens on
{DEFAULT_ENDPOINT}, for processes of this machine only.

Two examples:

    twistd -n acebase-ipc --port tcp:9163:interface=127.0.0.1
    twistd -n acebase-ipc --port ssl:9163:privateKey=key.pem --token-file token.txt

A port is a Twisted endpoint string: tcp:, ssl:, tls:, unix:, systemd: and more,
and pfx:9163:path=server.pfx:passphraseFile=secret.txt for a PKCS#12 bundle.
ssl: takes no encrypted PEM key. Convert such a key into a bundle for pfx: with

    openssl pkcs12 -export -inkey key.pem -in cert.pem -out server.pfx

Without --token and --token-file the token is taken from the environment
variable {TOKEN_VARIABLE}. A size is a number of bytes, or has a unit: 16KiB,
16MiB, 1GiB. Relative paths are resolved when the relay starts.
"""


def limit_parameters() -> Iterator[list[Any]]:
    """Yield an option for each limit."""
    for each in fields(Limits):
        limit: Limit = each.metadata["limit"]
        is_time = limit.unit == "seconds"
        default = "16KiB, or 16MiB with TLS" if each.name == "max_payload" else "off"
        if isinstance(each.default, int | float):
            default = format_size(each.default) if limit.unit == "bytes" else f"{each.default:g}"
        text = f"{limit.unit[0].upper()}{limit.unit[1:]}: {limit.summary}. [default: {default}]"
        yield [each.name.replace("_", "-"), None, None, text, float if is_time else parse_size]


def dialect(text: str) -> Dialect | None:
    """Return the dialect of that name, ``None`` for ``auto``."""
    if text == "auto":
        return None
    try:
        return Dialect(text)
    except ValueError:
        raise ConfigError("must be auto, documented or acebase") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that accepts only one of *choices*."""

    def coerce(text: str) -> str:
        if text not in choices:
            raise ConfigError(f"must be one of {', '.join(choices)}")
        return text

    return coerce


class Options(usage.Options):
    """The options of ``twistd acebase-ipc``."""

    synopsis = "[--port <endpoint>]… [--token-file <file>] [options]"

    longdesc: str = LONGDESC

    optParameters: list[list[Any]] = [
        [
            "token",
            None,
            None,
            "The secret that clients must present; visible in the output of 'ps'.",
        ],
        [
            "token-file",
            None,
            None,
            "Read tokens from this file, one per line: [<database pattern>] <token>.",
        ],
        [
            "state-dir",
            None,
            None,
            "Keep a journal of workers and locks here, so that a crash stops no cluster.",
        ],
        [
            "admin-token-file",
            None,
            None,
            "Read tokens for --admin over TCP from this file, one per line.",
        ],
        [
            "dialect",
            None,
            None,
            "The dialect of all peers: documented or acebase. [default: auto, detected]",
            dialect,
        ],
        [
            "log-format",
            None,
            None,
            "The format of the log: text, or json (one object per line). [default: text]",
            one_of("text", "json"),
        ],
        [
            "log-level",
            None,
            None,
            "The lowest level that is logged: debug, info, warn or error. [default: info]",
            one_of("debug", "info", "warn", "error"),
        ],
        *limit_parameters(),
    ]

    optFlags: list[list[Any]] = [
        ["no-introductions", None, "Do not send acebase peers each other's hello."],
        [
            "no-lock-recovery",
            None,
            "Leave the locks of peers that are gone, and tell a new master nothing.",
        ],
        ["admin-bodies", None, "Show the bodies of messages to those who watch at --admin."],
    ]

    compData = usage.Completions(
        optActions={
            "token-file": usage.CompleteFiles(),
            "admin-token-file": usage.CompleteFiles(),
            "state-dir": usage.CompleteDirs(),
            "dialect": usage.CompleteList(["auto", "documented", "acebase"]),
            "log-format": usage.CompleteList(["text", "json"]),
            "log-level": usage.CompleteList(["debug", "info", "warn", "error"]),
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self["ports"] = []
        self["admin"] = []
        self["origins"] = []
        self["hosts"] = []

    def opt_port(self, description: str) -> None:
        """Listen on this endpoint; may be given more than once."""
        self["ports"].append(description)

    opt_p = opt_port

    def opt_admin(self, description: str) -> None:
        """Show what happens, and obey commands, at this endpoint; may be given more than once."""
        self["admin"].append(description)

    def opt_allow_origin(self, origin: str) -> None:
        """Allow web pages of this origin, such as https://example.org; * allows all."""
        self["origins"].append(origin)

    def opt_allow_host(self, name: str) -> None:
        """Allow this host name in requests to a relay on loopback without a token."""
        self["hosts"].append(name)

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"acebase-ipc {version('acebase-ipc')}\n")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """Return the help; Twisted would join the paragraphs of a description into one."""
        self.longdesc = ""
        return f"{super().getUsage(width)}{LONGDESC}"

    def postOptions(self) -> None:
        """Read the token and check all values together.

        :raises UsageError: for values that cannot be used.
        """
        try:
            self["config"] = AceBaseIPCServerConfig(
                endpoints=tuple(self["ports"] or [DEFAULT_ENDPOINT]),
                limits=Limits(**self._limits()),
                token=self._token(),
                token_file=self["token-file"],
                dialect=self["dialect"],
                introductions=not self["no-introductions"],
                lock_recovery=not self["no-lock-recovery"],
                state_dir=self["state-dir"],
                allow_origins=tuple(self["origins"]),
                allow_hosts=tuple(self["hosts"]),
                admin=tuple(self["admin"]),
                admin_token_file=self["admin-token-file"],
                admin_bodies=bool(self["admin-bodies"]),
            )
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        runner: Any = self.parent or {}
        if runner.get("pidfile"):
            remove_stale_pid_file(runner["pidfile"])
        if "fileLogObserverFactory" in runner:
            self._change_log_of_twist(runner)

    def _change_log_of_twist(self, twist: Any) -> None:
        """Let ``twist``, which accepts no observer, write its log as it is asked to here."""
        form = self["log-format"] or twist["logFormat"]
        level = self["log-level"] or twist["logLevel"].name

        def make_observer(file: IO[str], *_: object) -> LineObserver:
            return LineObserver(StreamOutput(file), form, level, time.monotonic)

        twist["fileLogObserverFactory"] = make_observer
        twist["logLevel"] = LogLevel.lookupByName(level)

    def log_writer(self) -> LineObserver | None:
        """Return what writes the log of ``twistd``; ``None`` if its ``--logger`` does.

        :raises ConfigError: if there is nothing to write to.
        """
        twistd: Any = self.parent or {}
        if "nodaemon" not in twistd or twistd.get("logger"):
            return None
        form, level = self["log-format"] or "text", self["log-level"] or "info"
        return LineObserver(_log_output(twistd), form, level, time.monotonic)

    def _limits(self) -> dict[str, Any]:
        given = {each.name: self[each.name.replace("_", "-")] for each in fields(Limits)}
        return {name: value for name, value in given.items() if value is not None}

    def _token(self) -> str | None:
        token: str | None = self["token"]
        if token is not None:
            return clean_token(token, "--token")
        token = os.environ.get(TOKEN_VARIABLE)
        if token is None or self["token-file"] is not None:
            return None
        return clean_token(token, TOKEN_VARIABLE)


def _log_output(twistd: Any) -> Output:
    """Return what ``twistd`` would write its log to."""
    logfile = twistd.get("logfile")
    if twistd.get("syslog"):
        return SyslogOutput(twistd["prefix"])
    if twistd["nodaemon"] and logfile in (None, "", "-"):
        return StreamOutput(sys.stdout)
    if logfile == "-":
        raise ConfigError("a daemon cannot log to standard output: give twistd a --logfile")
    try:
        return FileOutput(logfile or "twistd.log")
    except OSError as error:
        raise ConfigError(f"cannot write the log {error.filename!r}: {error.strerror}") from None


def makeService(options: Options) -> IService:
    """Return the service that runs a relay with these *options*.

    :raises SystemExit: with one line of text, if it cannot listen as described.
    """
    signals = Signals()  # before the imports below, which take most of the time of a start
    from twisted.internet import reactor

    from acebase_ipc.server.daemon import Daemon

    try:
        return Daemon(options["config"], reactor, signals, options.log_writer())
    except ConfigError as error:
        raise SystemExit(f"acebase-ipc: {error}") from None
