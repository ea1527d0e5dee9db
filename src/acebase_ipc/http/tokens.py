"""Secret tokens that open all databases or some."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from acebase_ipc.errors import ConfigError

FREE_FAILURES = 10
"""Wrong tokens per minute and address that are answered at once."""

FAILURE_PERIOD = 60.0  # seconds
MAX_FAILING_ADDRESSES = 10_000
"""Addresses whose failures are remembered; an attacker may have more of them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A token, and the databases that it opens.

    :ivar pattern: matches wire names as in a shell: ``mydb_*``.
    """

    token: bytes = field(repr=False)
    pattern: str = "*"


class Tokens:
    """Decides whether a presented token opens a database. Its ``repr`` shows no token."""

    def __init__(self, rules: Iterable[Rule] | None) -> None:
        """:param rules: one that matches suffices; ``None`` if no token is required."""
        self._rules = None if rules is None else tuple(rules)

    @property
    def required(self) -> bool:
        """Whether a token has to be presented."""
        return self._rules is not None

    def allow(self, database: str | None, presented: Iterable[str | None]) -> bool:
        """Whether one of the *presented* tokens opens *database*, or, for ``None``, any.

        Compares in constant time, with all candidates.
        """
        if self._rules is None:
            return True
        candidates = [each.encode("utf-8", "surrogateescape") for each in presented if each]
        opened = [
            hmac.compare_digest(candidate, rule.token)
            & (database is None or fnmatchcase(database, rule.pattern))
            for rule in self._rules
            for candidate in candidates
        ]
        return any(opened)


def read_token_file(path: str | Path) -> tuple[Rule, ...]:
    """The rules in a token file.

    Each line is ``token`` or ``pattern token``, split at the last white space.
    Blank lines and lines that begin with ``#`` are skipped.

    :raises ConfigError: if the file cannot be read or holds no token.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the token file {str(path)!r}: {reason}") from None
    rules = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            *pattern, token = line.rsplit(maxsplit=1)
            rules.append(Rule(token.encode(), *pattern))
    if not rules:
        raise ConfigError(f"the token file {str(path)!r} holds no token")
    return tuple(rules)


class Failures:
    """Counts wrong tokens per address, so that guessing can be slowed down."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._since = 0.0

    def note(self, address: str, now: float) -> int:
        """Count a wrong token that *address* has presented at *now*, in monotonic seconds.

        :returns: how many it has presented in this minute.
        """
        if now - self._since >= FAILURE_PERIOD:
            self._counts.clear()
            self._since = now
        if address not in self._counts and len(self._counts) >= MAX_FAILING_ADDRESSES:
            return 1
        self._counts[address] = self._counts.get(address, 0) + 1
        return self._counts[address]
