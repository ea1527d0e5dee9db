"""The bounds: sizes as text, the contract's table, and values that make no sense."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.errors import ConfigError
from acebase_ipc.relay.limits import (
    DEFAULT_MAX_PAYLOAD,
    DEFAULT_MAX_PAYLOAD_TLS,
    GIB,
    KIB,
    MAX_UTF8_PER_UNIT,
    MIB,
    Limits,
    describe_limits,
    format_size,
    parse_size,
)

# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("16384", 16384),
        ("016", 16),
        ("16B", 16),
        ("16KiB", 16384),
        ("16MiB", 16 * 1024**2),
        ("1GiB", 1024**3),
        ("16 MiB", 16 * 1024**2),
        (" 16MiB ", 16 * 1024**2),
        ("16kib", 16384),
        ("16mib", 16 * 1024**2),
        ("16GIB", 16 * 1024**3),
    ],
)
def test_a_size_has_a_binary_unit_or_none(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "KiB",
        "-1",
        "+1",
        "1.5MiB",
        "1,5MiB",
        "1e3",
        "0x10",
        "16K",
        "16M",
        "16KB",
        "16MB",
        "16TiB",
        "16iB",
        "16KiBB",
        "16KiB 1",
        "1 6",
        "1_000",
        "16KiB\n16KiB",
        "inf",
        "nan",
        "off",
    ],
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9" * 5000, "16\N{KELVIN SIGN}iB"])
def test_odd_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_not(text: str) -> None:
    try:
        size = parse_size(text)
    except ConfigError:
        assert not text.strip().isdecimal() or len(text.strip()) > 18
    else:
        assert size >= 0


@given(st.integers(0, 2**53), st.sampled_from([("", 1), ("B", 1), ("KiB", KIB), ("GiB", GIB)]))
def test_a_unit_multiplies(number: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert parse_size(f"{number}{name}") == number * factor


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1, "1"),
        (1023, "1023"),
        (KIB, "1KiB"),
        (KIB + 1, "1025"),
        (16 * KIB, "16KiB"),
        (1536, "1536"),
        (1536 * KIB, "1536KiB"),
        (MIB, "1MiB"),
        (1000 * MIB, "1000MiB"),
        (GIB, "1GiB"),
        (60.0, "60"),
        (0.5, "0.5"),
    ],
)
def test_a_size_is_written_in_the_largest_unit_that_divides_it(size: float, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 999_999) | st.integers(0, 999).map(lambda each: each * MIB))
def test_what_was_written_is_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("size", [1_234_567, 16 * MIB + 1, 1_234_567 * GIB])
def test_what_was_written_is_read_however_large(size: int) -> None:
    assert parse_size(format_size(size)) == size


# The contract's table

DEFAULTS: dict[str, float | None] = {
    "max_payload": None,
    "max_message": 64 * MIB,
    "max_stored": 256 * MIB,
    "message_ttl": 60,
    "max_backlog": 64 * MIB,
    "session_timeout_closed": 5,
    "master_warmup": 1,
    "fence": 600,
    "lock_warning": 10,
    "lock_session_max": 30,
    "max_session_queue": 16 * MIB,
    "quiesce_timeout": 5,
    "session_timeout": 15,
    "max_memory": GIB,
    "history_messages": None,
    "history_bytes": 16 * MIB,
    "max_connections": 20_000,
    "max_database_connections": 5_000,
    "max_address_connections": None,
    "max_databases": 10_000,
    "handshake_timeout": 10,
    "request_timeout": 60,
    "http_idle": 20,
    "keepalive_interval": 25,
    "keepalive_timeout": 10,
}
OFF = [name for name, default in DEFAULTS.items() if default is None]

SECONDS = {
    "message_ttl",
    "session_timeout",
    "session_timeout_closed",
    "quiesce_timeout",
    "master_warmup",
    "fence",
    "lock_warning",
    "lock_session_max",
    "handshake_timeout",
    "request_timeout",
    "http_idle",
    "keepalive_interval",
    "keepalive_timeout",
}


def test_every_limit_has_its_default() -> None:
    limits = Limits()
    assert {name: getattr(limits, name) for name in describe_limits()} == DEFAULTS


def test_the_payload_limit_of_clients_is_assumed() -> None:
    assert Limits().payload_limit == DEFAULT_MAX_PAYLOAD == 16384
    assert DEFAULT_MAX_PAYLOAD_TLS == 16 * MIB
    assert Limits(max_payload=77).payload_limit == 77


def test_a_utf16_unit_needs_at_most_three_bytes() -> None:
    assert max(len(chr(each).encode()) for each in (0x7F, 0x7FF, 0xFFFF)) == MAX_UTF8_PER_UNIT
    assert len("\U0010ffff".encode()) <= 2 * MAX_UTF8_PER_UNIT


def test_times_are_seconds() -> None:
    described = describe_limits().items()
    assert {name for name, limit in described if limit.unit == "seconds"} == SECONDS


def test_a_half_open_peer_is_found_within_35_seconds() -> None:
    assert Limits().keepalive_interval + Limits().keepalive_timeout <= 35


def test_a_connection_is_kept_for_reuse_as_long_as_clients_do() -> None:
    assert Limits().http_idle >= 15


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_limit_is_described(name: str) -> None:
    limit = describe_limits()[name]
    assert all((limit.summary, limit.unit, limit.exceeded, limit.reason))
    assert limit.minimum < limit.maximum


# Values


def limits_with(name: str, value: Any) -> Limits:
    return Limits(**{name: value})


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_range_of_a_limit_is_closed(name: str) -> None:
    limit = describe_limits()[name]
    for legal in (limit.minimum, limit.maximum):
        assert getattr(limits_with(name, legal), name) == legal
    for illegal in (limit.minimum - 1, limit.maximum * 2, -1, math.inf, -math.inf, math.nan):
        with pytest.raises(ConfigError, match=f"^{name} must be from "):
            limits_with(name, illegal)


def test_only_what_can_be_turned_off_can_be_zero() -> None:
    assert [name for name, limit in describe_limits().items() if limit.minimum <= 0] == [
        "session_timeout",
        "session_timeout_closed",
        "quiesce_timeout",
        "master_warmup",
        "fence",
    ]


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", ["16", b"16", True, False, [16], 1j, object()])
def test_a_limit_is_a_number(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a number of "):
        limits_with(name, value)


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name not in OFF])
def test_not_every_limit_can_be_off(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a number of "):
        limits_with(name, None)


@pytest.mark.parametrize("name", ["max_payload", "max_connections"])
def test_what_is_counted_is_a_whole_number(name: str) -> None:
    with pytest.raises(ConfigError):
        limits_with(name, describe_limits()[name].minimum + 0.5)


def test_limits_are_values() -> None:
    assert Limits(max_payload=5) == Limits(max_payload=5) != Limits()
    with pytest.raises(AttributeError):
        Limits().max_payload = 5  # type: ignore[misc]
