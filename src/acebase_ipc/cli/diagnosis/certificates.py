"""Looks at certificates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from acebase_ipc.cli.diagnosis.findings import Finding, error, ok, warning

SOON: Final = timedelta(days=21)
"""Before it expires for so long, a certificate should have been renewed."""


def examine_dates(subject: str, certificate: x509.Certificate, now: datetime) -> Iterator[Finding]:
    """Yield whether *certificate* is valid at *now*."""
    until = certificate.not_valid_after_utc
    if certificate.not_valid_before_utc > now:
        yield error(
            subject,
            f"the certificate is not valid before {_date(certificate.not_valid_before_utc)}",
            "check this machine's clock, or install a certificate that is valid",
        )
    elif until <= now:
        yield error(
            subject,
            f"the certificate has expired on {_date(until)}",
            "renew it, and restart the relay or the proxy that presents it",
        )
    elif until - now < SOON:
        yield warning(
            subject,
            f"the certificate expires on {_date(until)}",
            "renew it, and restart the relay or the proxy that presents it",
        )
    else:
        yield ok(subject, f"the certificate is valid until {_date(until)}")


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def _date(moment: datetime) -> str:
    return moment.date().isoformat()
