"""Warns of certificates that expire soon, that have expired, or that are not valid yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from acebase_ipc.relay.events import CertificateExpires, CertificateInvalid, Observer, RelayEvent

if TYPE_CHECKING:
    from cryptography import x509

EXPIRES_SOON: Final = timedelta(days=14)
"""Certificates are renewed earlier: those for 90 days after 60."""

WARNING_INTERVAL: Final = 24 * 3600.0
"""Seconds between two warnings about a certificate."""


@dataclass(frozen=True, slots=True)
class CertificateDates:
    """When a certificate is valid.

    :ivar path: the file that holds it, as it is shown.
    :ivar begin: from when on; with further certificates in the file, when all are.
    :ivar end: until when; with further certificates in the file, until the first one expires.
    """

    path: str
    begin: datetime
    end: datetime


def dates_of(path: str, certificates: Sequence[x509.Certificate]) -> CertificateDates:
    """Return when all *certificates* of the file *path* are valid; there is at least one."""
    return CertificateDates(
        path,
        max(each.not_valid_before_utc for each in certificates),
        min(each.not_valid_after_utc for each in certificates),
    )


def problem_of(dates: CertificateDates, now: datetime) -> RelayEvent | None:
    """Return what is to be said at *now* about a certificate; ``None`` if it is valid for long."""
    if now < dates.begin:
        return CertificateInvalid(dates.path, f"is not valid before {_text(dates.begin)}")
    if now >= dates.end:
        return CertificateInvalid(dates.path, f"has expired on {_text(dates.end)}")
    if dates.end - now <= EXPIRES_SOON:
        return CertificateExpires(dates.path, _text(dates.end), (dates.end - now).days)
    return None


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


class CertificateWatch:
    """Reports the certificates of a server that are not valid, or not for long: once a day.

    :param find: returns the dates of every certificate that is in use now.
    :param clock: returns monotonic seconds.
    :param wall: returns the seconds since 1970.
    """

    def __init__(
        self,
        find: Callable[[], Iterable[CertificateDates]],
        observer: Observer,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._find = find
        self._observer = observer
        self._clock = clock
        self._wall = wall
        self._due = clock() + WARNING_INTERVAL

    def timestamps(self) -> dict[str, tuple[float, float]]:
        """Return from and until when each file is valid, in seconds since 1970, by its path."""
        return {each.path: (each.begin.timestamp(), each.end.timestamp()) for each in self._find()}

    def report(self) -> None:
        """Report what is to be said now, and again after a day."""
        self._due = self._clock() + WARNING_INTERVAL
        now = datetime.fromtimestamp(self._wall(), UTC)
        for each in dict.fromkeys(self._find()):  # several ports may use one file
            problem = problem_of(each, now)
            if problem is not None:
                self._observer.report(problem)

    def tick(self) -> None:
        """Report, if that was done a day ago; called about once a second."""
        if self._clock() >= self._due:
            self.report()
