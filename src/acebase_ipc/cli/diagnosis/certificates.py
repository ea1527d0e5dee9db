"""Looks at certificates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from acebase_ipc.cli.diagnosis.findings import Finding, error, ok, warning
from acebase_ipc.server.expiry import EXPIRES_SOON, CertificateDates

RENEW = "renew it; the relay then uses it by itself, a proxy that presents it has to be reloaded"


def examine_dates(subject: str, dates: CertificateDates, now: datetime) -> Iterator[Finding]:
    """Yield whether the certificate with these *dates* is valid at *now*."""
    if dates.begin > now:
        yield error(
            subject,
            f"the certificate is not valid before {_date(dates.begin)}",
            "check this machine's clock, or install a certificate that is valid",
        )
    elif dates.end <= now:
        yield error(subject, f"the certificate has expired on {_date(dates.end)}", RENEW)
    elif dates.end - now <= EXPIRES_SOON:
        yield warning(subject, f"the certificate expires on {_date(dates.end)}", RENEW)
    else:
        yield ok(subject, f"the certificate is valid until {_date(dates.end)}")


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def _date(moment: datetime) -> str:
    return moment.date().isoformat()
