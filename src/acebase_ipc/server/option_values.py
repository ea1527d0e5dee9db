"""Reads the value of an option: from an argument, a variable or the configuration file."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any, Final

from acebase_ipc.errors import ConfigError
from acebase_ipc.relay.limits import parse_size
from acebase_ipc.server.endpoints import absolute_endpoint
from acebase_ipc.server.options import Kind, Option

_MAX_BITS: Final = 64
"""Bits of a number; all limits are lower than 2**63. Python has no text of a much longer one."""

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


def from_argument(option: Option, text: str, directory: str) -> Any:
    """Return the value of an argument; one element of an option with several values.

    :param directory: that of relative paths.
    :raises ConfigError: if it cannot be used; the text does not name the option.
    """
    return _check(option, _parse(option, text), directory)


def from_variable(option: Option, text: str, directory: str) -> Any:
    """Return the value of an environment variable.

    Several values are separated by white space; quotes hold one with white space together.

    :raises ConfigError: as :func:`from_argument`.
    """
    if option.kind is Kind.FLAG:
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigError("write true or false")
        return text.lower() in _TRUE
    if not option.kind.is_list:
        return from_argument(option, text, directory)
    _check_count(option, text.split())
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split, words.escape, words.commenters = True, "", ""
    try:
        return tuple(from_argument(option, each, directory) for each in words)
    except ConfigError:
        raise
    except ValueError:
        raise ConfigError("a quotation mark is not closed") from None


def from_toml(option: Option, value: object, directory: str) -> Any:
    """Return the value of a key of the configuration file, as TOML gives it.

    :raises ConfigError: as :func:`from_argument`.
    """
    match option.kind:
        case Kind.FLAG:
            if not isinstance(value, bool):
                raise ConfigError("write true or false")
            return value
        case Kind.ENDPOINTS | Kind.TEXTS:
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ConfigError(f"write an array of strings: {option.name} = {option.example}")
            _check_count(option, value)
            return tuple(from_argument(option, each, directory) for each in value)
        case Kind.SIZE | Kind.COUNT | Kind.SECONDS if _is_huge(value):
            raise ConfigError("the number is too long")
        case Kind.SIZE if isinstance(value, int) and not isinstance(value, bool):
            return _check(option, value, directory)
        case Kind.COUNT | Kind.SECONDS:
            number = (int, float) if option.kind is Kind.SECONDS else int
            if not isinstance(value, number) or isinstance(value, bool):
                raise ConfigError(f"write {option.kind.expected}, without quotation marks")
            return _check(option, value, directory)
    if not isinstance(value, str):
        what = option.kind.expected if option.kind is Kind.SIZE else "text in quotation marks"
        raise ConfigError(f"write {what}: {option.name} = {option.example}")
    return from_argument(option, value, directory)


def _check_count(option: Option, values: Sequence[object]) -> None:
    """Refuse no value if one is needed."""
    if not values and option.needs_value:
        raise ConfigError(f"at least one value is needed, such as {option.example}")


def _is_huge(value: object) -> bool:
    """Return whether *value* is a number that no limit allows, and that may have no text."""
    return isinstance(value, int) and value.bit_length() > _MAX_BITS


def _parse(option: Option, text: str) -> Any:
    kind = option.kind
    if kind is Kind.SIZE:
        return parse_size(text)
    if kind is Kind.COUNT:
        if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
            raise ConfigError(f"{text!r} is not {kind.expected}")
        return int(text)
    if kind is Kind.SECONDS:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            digits = re.match(r"[0-9.]+", text.strip())
            written = digits[0] if digits else "15"
            raise ConfigError(f"{text!r} is not a number of seconds: write {written}")
        return number
    if kind is Kind.CHOICE and text not in option.choices:
        *others, last = option.choices
        raise ConfigError(f"must be {', '.join(others)} or {last}, not {text!r}")
    return text


def _check(option: Option, value: Any, directory: str) -> Any:
    if option.kind is Kind.PATH and "\0" in value:
        raise ConfigError("no path has a null character")
    if option.kind is Kind.PATH and value:
        return os.path.join(directory, value)
    if option.check is not None:
        option.check(value)
    if option.kind is Kind.ENDPOINTS:
        return absolute_endpoint(value, directory)
    return value
