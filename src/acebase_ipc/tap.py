"""The command line: ``twistd acebase-ipc``."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import groupby
from typing import IO, Any, Final

from twisted.application.service import IService
from twisted.logger import LogLevel
from twisted.python import usage

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.handover.successor import VARIABLE, connect
from acebase_ipc.server.logging import (
    FileOutput,
    LineObserver,
    Output,
    StreamOutput,
    SyslogOutput,
)
from acebase_ipc.server.option_values import from_argument
from acebase_ipc.server.options import (
    CONFIG,
    DEFAULT_ENDPOINT,
    OPTIONS,
    PREFIX,
    Kind,
    Option,
)
from acebase_ipc.server.process import Launch, PidFile, Signals, remove_stale_pid_file
from acebase_ipc.server.settings import Settings, Sources, find_sources

WIDTH: Final = 80
"""Columns of the help."""

INDENT: Final = 30
"""Columns of the names of the options in the help."""

LONGDESC = f"""\
Relays lock requests, cache notifications and data events between AceBase
processes that share database files. Without --port it listens on port
{DEFAULT_ENDPOINT} of 127.0.0.1 and ::1, for processes of this machine only.
"""

EXPLANATION = f"""\
Two examples; "acebase-ipc serve" is the same as "twistd -n acebase-ipc":

    twistd -n acebase-ipc --port 9163 --token-file token.txt
    twistd -n acebase-ipc --port ssl:9163:privateKey=key.pem:certKey=cert.pem

An endpoint is the number of a port of loopback, or a Twisted endpoint string:
tcp:, tcp6:, ssl:, unix:, systemd: and more, and for a PKCS#12 bundle
pfx:9163:path=server.pfx:passphraseFile=secret.txt
ssl: takes no encrypted PEM key. Convert such a key into a bundle for pfx: with

    openssl pkcs12 -export -inkey key.pem -in cert.pem -out server.pfx

A size is a number of bytes, or has a unit: 16KiB, 16MiB, 1GiB. Relative paths
are resolved when the relay starts.

Every option can be given in the environment, as {PREFIX}TOKEN_FILE, and in
the file of --config, as token_file. The command line is stronger than the
environment, and that than the file.
"""


def _collect(option: Option) -> Callable[..., None]:
    """Return the method that receives *option* while a command line is parsed."""

    def opt_flag(self: Options) -> None:
        self.given[option.name] = True

    def opt_value(self: Options, text: str) -> None:
        try:
            value = from_argument(option, text, os.getcwd())
        except ConfigError as error:
            raise usage.UsageError(f"{option.option}: {error}") from None
        if option.kind.is_list:
            self.given[option.name] = (*self.given.get(option.name, ()), value)
        else:
            self.given[option.name] = value

    method: Callable[..., None] = opt_flag if option.kind is Kind.FLAG else opt_value
    method.__doc__ = option.text
    return method


class Options(usage.Options):
    """The options of ``twistd acebase-ipc``.

    :ivar given: the values of the command line.
    :ivar sources: where the options come from, after they were parsed.
    :ivar settings: the options as they were when they were parsed.
    :ivar pid_file: the pid file of ``twistd``; ``None`` if it writes none.
    """

    synopsis = "[options]"

    compData = usage.Completions(
        optActions={
            each.option.removeprefix("--"): usage.CompleteList(list(each.choices))
            if each.choices
            else usage.CompleteFiles()
            for each in (*OPTIONS, CONFIG)
            if each.choices or each.kind is Kind.PATH
        }
    )

    sources: Sources
    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}
        self.pid_file: PidFile | None = None

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"acebase-ipc {version('acebase-ipc')}\n")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: the options by what they are about."""
        parts = [LONGDESC]
        for group, options in groupby(OPTIONS, lambda each: each.group):
            lines = [_help(each.option, each) for each in options]
            parts.append("".join((f"{group.value}:\n", *lines)))
        general = [
            _help(CONFIG.option, CONFIG),
            _entry("--version", "Print the version and exit."),
            _entry("--help", "Print this help and exit."),
        ]
        parts.append("".join(("General:\n", *general)))
        return "\n" + "\n".join((*parts, EXPLANATION))

    def postOptions(self) -> None:
        """Read the environment and the configuration file, and check all values together.

        :raises UsageError: for values that cannot be used.
        """
        try:
            self.sources = find_sources(self.given, os.environ)
            self.settings = self.sources.read()
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        runner: Any = self.parent or {}
        if runner.get("pidfile"):
            remove_stale_pid_file(runner["pidfile"])
            self.pid_file = PidFile(runner)
            if self.settings.take_over_from is not None or VARIABLE in os.environ:
                self.pid_file.manage()
        if "fileLogObserverFactory" in runner:
            self._change_log_of_twist(runner)

    def _change_log_of_twist(self, twist: Any) -> None:
        """Let ``twist``, which accepts no observer, write its log as it is asked to here."""
        form, level = self.settings.log_format or twist["logFormat"], self.log_level

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
        return self.make_writer(_log_output(twistd))

    def make_writer(self, output: Output) -> LineObserver:
        """Return what writes the log to *output*."""
        form = self.settings.log_format or "text"
        return LineObserver(output, form, self.log_level, time.monotonic)

    @property
    def log_level(self) -> str:
        """The lowest level that is logged."""
        runner: Any = self.parent or {}
        twist_level = runner.get("logLevel")
        default: str = "info" if twist_level is None else twist_level.name
        return self.settings.log_level or default


for _option in (*OPTIONS, CONFIG):
    setattr(Options, f"opt_{_option.name}", _collect(_option))
    if _option.short:
        setattr(Options, f"opt_{_option.short}", getattr(Options, f"opt_{_option.name}"))


def _help(name: str, option: Option) -> str:
    names = f"-{option.short}, {name}" if option.short else name
    metavar = "|".join(option.choices) or option.metavar or option.kind.metavar
    return _entry(f"{names} {metavar}".rstrip(), option.text)


def _entry(names: str, text: str) -> str:
    """Return the entry of an option in the help."""
    name = f"  {names}"
    lines = textwrap.wrap(text, WIDTH - INDENT)
    if len(name) <= INDENT - 2:
        name = name.ljust(INDENT) + lines.pop(0)
    return "".join(f"{each}\n" for each in (name, *(" " * INDENT + line for line in lines)))


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
    from acebase_ipc.server.handover.wire import HandOverError

    try:
        writer = options.log_writer()
        runner: Any = options.parent or {}
        launch = Launch(forks="nodaemon" in runner and not runner["nodaemon"])
        link = connect(options.settings.take_over_from, os.environ, time.monotonic)
        if options.pid_file is not None and link is None:
            options.pid_file.check()
        return Daemon(
            options.sources,
            reactor,
            signals,
            launch,
            writer,
            options.log_level,
            link,
            options.pid_file,
        )
    except (ConfigError, HandOverError) as error:
        raise SystemExit(f"acebase-ipc: {error}") from None
