"""Certificates that are not valid, or not for long: what the relay says of them, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from acebase_ipc.relay.events import CertificateExpires, CertificateInvalid, RelayEvent
from acebase_ipc.server.expiry import CertificateDates, problem_of
from acebase_ipc.testing import MemoryRelay
from acebase_ipc.testing.relay import START
from tests.certificates import Certificate, make_certificate, make_chain, make_pfx
from tests.integration.relay_process import endpoint

NOW = datetime.fromtimestamp(START, UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
HOUR = 3600
"""Seconds."""


class Certificates:
    """Notes what is reported about certificates, and forgets it when it is asked."""

    def __init__(self) -> None:
        self._events: list[RelayEvent] = []

    def report(self, event: RelayEvent) -> None:
        if isinstance(event, CertificateExpires | CertificateInvalid):
            self._events.append(event)

    def take(self) -> list[RelayEvent]:
        events, self._events = self._events, []
        return events


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def expires(path: Path, until: datetime, days: int) -> CertificateExpires:
    return CertificateExpires(str(path), text(until), days)


def on(certificate: Certificate, port: int = 0, **arguments: Path) -> str:
    files = {"privateKey": certificate.key, "certKey": certificate.certificate, **arguments}
    return endpoint("ssl", port, interface="127.0.0.1", **files)


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (NOW, NOW + 14 * DAY + SECOND, None),
        (NOW, NOW + 14 * DAY, CertificateExpires("x", "2023-11-28 22:13 UTC", 14)),
        (NOW, NOW + SECOND, CertificateExpires("x", "2023-11-14 22:13 UTC", 0)),
        (NOW - DAY, NOW, CertificateInvalid("x", "has expired on 2023-11-14 22:13 UTC")),
        (
            NOW + SECOND,
            NOW + 99 * DAY,
            CertificateInvalid("x", "is not valid before 2023-11-14 22:13 UTC"),
        ),
    ],
)
def test_what_is_said_of_a_certificate(
    begin: datetime, end: datetime, expected: RelayEvent | None
) -> None:
    assert problem_of(CertificateDates("x", begin, end), NOW) == expected


def test_it_is_said_at_the_start_and_every_day(tmp_path: Path) -> None:
    until = NOW + 3 * DAY
    certificate, seen = make_certificate(tmp_path, until=until), Certificates()
    path = certificate.certificate
    with MemoryRelay(endpoints=(on(certificate),), observer=seen) as relay:
        assert seen.take() == [expires(path, until, 3)]
        relay.pass_time(24 * HOUR - 1, step=HOUR)
        assert seen.take() == []
        relay.pass_time(2)
        assert seen.take() == [expires(path, until, 2)]
        relay.pass_time(2 * 24 * HOUR, step=HOUR)
        assert seen.take() == [
            expires(path, until, 0),
            CertificateInvalid(str(path), f"has expired on {text(until)}"),
        ]
        (line,) = relay.logged("the certificate has expired on")
        assert "#error] " in line
        assert len(relay.logged("#warn] ", "the certificate expires in")) == 3


def test_a_certificate_that_is_valid_for_long_is_not_mentioned(tmp_path: Path) -> None:
    seen = Certificates()
    with MemoryRelay(endpoints=(on(make_certificate(tmp_path)),), observer=seen) as relay:
        relay.pass_time(25 * HOUR, step=HOUR)
        assert seen.take() == []


def test_it_is_said_again_after_a_reload_until_the_certificate_is_renewed(tmp_path: Path) -> None:
    until = NOW + DAY
    certificate, seen = make_certificate(tmp_path, until=until), Certificates()
    with MemoryRelay(endpoints=(on(certificate),), observer=seen) as relay:
        seen.take()
        assert relay.server.reload()
        assert seen.take() == [expires(certificate.certificate, until, 1)]
        make_certificate(tmp_path)
        assert relay.server.reload()
        assert seen.take() == []
        relay.pass_time(25 * HOUR, step=HOUR)
        assert seen.take() == []


def test_a_certificate_that_could_not_be_read_again_is_the_old_one(tmp_path: Path) -> None:
    until = NOW + DAY
    certificate, seen = make_certificate(tmp_path, until=until), Certificates()
    with MemoryRelay(endpoints=(on(certificate),), observer=seen) as relay:
        seen.take()
        certificate.certificate.write_text("nonsense")
        assert not relay.server.reload()
        relay.pass_time(25 * HOUR, step=HOUR)
        assert [type(each) for each in seen.take()] == [CertificateInvalid]


@pytest.mark.parametrize("kind", ["ssl", "chain", "pfx", "admin"])
def test_certificates_of_every_kind_of_port_are_looked_at(tmp_path: Path, kind: str) -> None:
    until, seen = NOW + DAY, Certificates()
    certificate = make_certificate(tmp_path, until=until)
    path = certificate.certificate
    options: dict[str, Any] = {"endpoints": (on(certificate),)}
    if kind == "chain":
        certificate = make_chain(tmp_path, until=until)
        path = certificate.chain
        options = {"endpoints": (on(certificate, extraCertChain=certificate.chain),)}
    elif kind == "pfx":
        path = make_pfx(make_chain(tmp_path, until=until))
        options = {"endpoints": (endpoint("pfx", 0, path=path),)}
    elif kind == "admin":
        options = {"admin": (on(certificate),)}
    with MemoryRelay(observer=seen, **options):
        assert seen.take() == [expires(path, until, 1)]


def test_two_ports_with_one_certificate_are_one_line(tmp_path: Path) -> None:
    until, seen = NOW + DAY, Certificates()
    certificate = make_certificate(tmp_path, until=until)
    ports: Any = {"endpoints": (on(certificate), on(certificate)), "admin": (on(certificate),)}
    with MemoryRelay(observer=seen, **ports):
        assert seen.take() == [expires(certificate.certificate, until, 1)]
