"""Reads the options from where they can be given: the command line, the environment, a file.

The first of these that gives an option decides; an option with several values is not merged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final

from acebase_ipc.cluster.redis_url import parse_redis_url
from acebase_ipc.errors import ConfigError
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import Limits
from acebase_ipc.server.config import AceBaseIPCServerConfig, is_exposed
from acebase_ipc.server.config_file import read_config_file
from acebase_ipc.server.endpoints import redact
from acebase_ipc.server.handover.successor import VARIABLE
from acebase_ipc.server.option_values import from_variable
from acebase_ipc.server.options import (
    BY_NAME,
    CONFIG,
    DEFAULT_ENDPOINT,
    OPTIONS,
    PREFIX,
    Kind,
)
from acebase_ipc.server.resources import lowered_defaults

_OTHER_VARIABLES: Final = frozenset({f"{PREFIX}ADMIN_TOKEN", VARIABLE})
"""Variables of the command ``acebase-ipc``, and of a hand-over."""

_SERVICE_LINK = re.compile(r"(tcp|udp)://\S+")
"""The value of a variable such as ``ACEBASE_IPC_PORT`` that Kubernetes makes for a service with
the name ``acebase-ipc``."""

_TYPING_ERROR: Final = 0.8
"""The similarity from which on the name of a variable is taken for a misspelled one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options as they were given.

    :ivar config: the configuration of the server that they make.
    :ivar values: the value of each option that was given, by its name.
    :ivar lowered: the limits that were not given, whose defaults the system has lowered.
    :ivar exposed_file: the configuration file, if it holds a secret and every user can read it.
    """

    config: AceBaseIPCServerConfig
    values: Mapping[str, Any] = field(repr=False)
    lowered: Mapping[str, int]
    exposed_file: str | None = None

    @property
    def log_format(self) -> str | None:
        """The format of the log, if it was given."""
        return self.values.get("log_format")

    @property
    def take_over_from(self) -> str | None:
        """The socket at which a predecessor is asked, and a successor can ask, if it was given."""
        return self.values.get("take_over_from")

    @property
    def log_level(self) -> str | None:
        """The lowest level that is logged, if it was given."""
        return self.values.get("log_level")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the options come from. Only the configuration file is read again.

    :ivar arguments: the values of the command line.
    :ivar variables: those of the environment.
    :ivar path: the configuration file; ``None`` if there is none.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    variables: Mapping[str, Any] = field(repr=False)
    path: str | None

    def read(self) -> Settings:
        """Return the options as they are now.

        :raises ConfigError: if the file cannot be used, or the options cannot be used together.
        """
        of_file = {} if self.path is None else read_config_file(self.path)
        values: dict[str, Any] = {}
        for layer in (self.arguments, self.variables, of_file):
            is_given = values.keys() | {BY_NAME[each].excludes for each in values}
            values |= {name: value for name, value in layer.items() if name not in is_given}
        lowered = {name: value for name, value in lowered_defaults().items() if name not in values}
        exposed = (
            self.path if self.path and _holds_secret(of_file) and is_exposed(self.path) else None
        )
        return Settings(make_config({**lowered, **values}), values, lowered, exposed)


def _holds_secret(values: Mapping[str, Any]) -> bool:
    endpoints = (*values.get("port", ()), *values.get("admin", ()))
    url = values.get("cluster")
    has_password = url is not None and parse_redis_url(url).password is not None
    return "token" in values or has_password or any(redact(each) != each for each in endpoints)


def find_sources(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Sources:
    """Return the sources of the options.

    :param arguments: the values of the command line, ``config`` among them.
    :raises ConfigError: if a variable of *environment* cannot be used.
    """
    variables = dict(read_environment(environment))
    path = variables.pop(CONFIG.name, None)
    given = dict(arguments)
    path = given.pop(CONFIG.name, path)
    return Sources(given, variables, None if path is None else os.path.abspath(path))


def read_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each option that the environment gives.

    :raises ConfigError: if a variable cannot be used, or its name is a misspelled one.
    """
    options = {each.variable: each for each in (*OPTIONS, CONFIG)}
    for name, text in environment.items():
        if name in options:
            if options[name].kind is Kind.ENDPOINTS and _SERVICE_LINK.fullmatch(text):
                continue
            try:
                yield options[name].name, from_variable(options[name], text, os.getcwd())
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
        elif name.startswith(PREFIX) and name not in _OTHER_VARIABLES:
            known = [each.removeprefix(PREFIX) for each in options]
            similar = get_close_matches(name.removeprefix(PREFIX), known, 1, _TYPING_ERROR)
            if similar:
                raise ConfigError(f"the variable {name} is no option: write {PREFIX}{similar[0]}")


def make_config(values: Mapping[str, Any]) -> AceBaseIPCServerConfig:
    """Return the configuration of the options with these *values*.

    :raises ConfigError: if they cannot be used together.
    """
    limits = {each.name for each in fields(Limits)}
    arguments: dict[str, Any] = {"endpoints": (DEFAULT_ENDPOINT,)}
    for name, value in values.items():
        option = BY_NAME[name]
        if name in limits or name in ("log_format", "log_level", "take_over_from"):
            continue
        if name == "dialect":
            value = None if value == "auto" else Dialect(value)
        elif name in ("no_introductions", "no_lock_recovery", "no_lock_sessions"):
            value = not value
        arguments[option.config_field] = value
    given = {name: value for name, value in values.items() if name in limits}
    return AceBaseIPCServerConfig(limits=Limits(**given), **arguments)
