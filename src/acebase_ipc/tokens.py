"""Who may come in: secret tokens."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path

from acebase_ipc.errors import ConfigError


class Tokens:
    """Decides whether a presented token opens a database.

    Its ``repr`` shows no token.
    """

    def __init__(self, token: str | None) -> None:
        """:param token: the secret; with ``None`` anybody may come in."""
        self._token = None if token is None else token.encode()

    @property
    def required(self) -> bool:
        """Whether a token has to be presented."""
        return self._token is not None

    def allow(self, presented: Iterable[str | None]) -> bool:
        """Whether one of the *presented* tokens is right; compares in constant time."""
        if self._token is None:
            return True
        candidates = [each.encode("utf-8", "surrogateescape") for each in presented if each]
        right = [hmac.compare_digest(each, self._token) for each in candidates]
        return any(right)


def read_token_file(path: str | Path) -> str:
    """The first line of a token file, without white space around it.

    :raises ConfigError: if the file cannot be read or its first line is empty.
    """
    try:
        with open(path, encoding="utf-8") as file:
            token = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the token file {str(path)!r}: {reason}") from None
    if not token:
        raise ConfigError(f"the first line of the token file {str(path)!r} is empty")
    return token
