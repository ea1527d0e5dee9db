"""The configuration file: the options in TOML, checked strictly."""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.option_values import from_toml
from acebase_ipc.server.options import BY_NAME


def read_config_file(path: str) -> dict[str, Any]:
    """Return the values in the configuration file *path* by the names of their options.

    Relative paths in it are those of its directory.

    :raises ConfigError: if it cannot be read, or something in it cannot be used; the text has
        the number of the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration file {path!r}: {reason}") from None
    try:
        values = tomllib.loads(f"{text}\n")  # errors at the very end have no line
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError):  # for more than tomllib can read
        raise ConfigError(f"{path}: a number is too long, or arrays are too deep") from None
    read = {}
    for name, value in values.items():
        try:
            read[name] = _value(name, value, os.path.dirname(os.path.abspath(path)))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {_line_of(name, text)}: {error}") from None
    return read


def _value(name: str, value: object, directory: str) -> Any:
    option = BY_NAME.get(name)
    if option is None:
        similar = get_close_matches(name.replace("-", "_"), BY_NAME, 1)
        hint = f": write {similar[0]}" if similar else ""
        raise ConfigError(f"{name!r} is no option{hint}")
    try:
        return from_toml(option, value, directory)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _line_of(name: str, text: str) -> int:
    """Return the number of the line in which the statement begins that sets the key *name*.

    A statement ends with the first line after which the text up to there is valid TOML.
    """
    lines = text.split("\n")  # TOML knows no other end of a line
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            if name in tomllib.loads("\n".join(lines[:end])):
                break
        except tomllib.TOMLDecodeError:
            continue
        begin = end
    return begin + 1
