"""The query of a handshake."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import (
    InvalidClientId,
    InvalidDatabaseName,
    RequestRefused,
    UnsupportedVersion,
)
from acebase_ipc.protocol.handshake import (
    Handshake,
    accept,
    check_client_id,
    check_database_name,
    parse_query,
)

DATABASE = "mydb_data"
WORKER = "0123456789abcdefghijklmn"

LONE_SURROGATES = [chr(0xD800), chr(0xDCFF)]
CONTROLS = ["\x00", "\t", "\n", "\r", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)
ids = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=";"),
    min_size=5,
    max_size=128,
)
ascii_queries = st.text(
    st.sampled_from("abAB019&&==%%%+;?#/. \x00\x7f") | st.characters(max_codepoint=127)
)


# Queries


@pytest.mark.parametrize(
    ("raw", "key", "value"),
    [
        (b"t=abc", "t", "abc"),
        (b"t=a%20b", "t", "a b"),
        (b"t=a%2Bb", "t", "a+b"),
        (b"t=a%2bb", "t", "a+b"),
        (b"t=a+b", "t", "a+b"),
        (b"t=+", "t", "+"),
        (b"t=c2VjcmV0==", "t", "c2VjcmV0=="),
        (b"t=c2VjcmV0%3D%3D", "t", "c2VjcmV0=="),
        (b"t==", "t", "="),
        (b"t=a=b=c", "t", "a=b=c"),
        (b"t=a%26b", "t", "a&b"),
        (b"t=a;u=b", "t", "a;u=b"),
        (b"t=%E6%BC%A2", "t", "漢"),
        ("t=漢".encode(), "t", "漢"),
        (b"t=%F0%9F%98%80", "t", "😀"),
        (b"t=%2520", "t", "%20"),
        (b"t=%", "t", "%"),
        (b"t=%4", "t", "%4"),
        (b"t=%zz", "t", "%zz"),
        (b"t=100%", "t", "100%"),
        (b"t=", "t", ""),
        (b"t", "t", ""),
        (b"%74=x", "t", "x"),
        (b"a+b=x", "a+b", "x"),
        (b"=x", "", "x"),
        (b"u=1&t=2&w=3", "t", "2"),
        (b"&&t=2&&", "t", "2"),
    ],
)
def test_a_value_is_decoded(raw: bytes, key: str, value: str) -> None:
    assert parse_query(raw)[key] == value


def test_the_last_of_equal_keys_wins() -> None:
    assert parse_query(b"id=first&t=x&id=second&v=1&%69d=third") == {
        "id": "third",
        "t": "x",
        "v": "1",
    }
    assert parse_query(b"t=secret&t=")["t"] == ""


@pytest.mark.parametrize("token", ["c2VjcmV0==", "a+b", "a+b/c==", "!$'()*,-._~:@"])
def test_a_token_works_raw_and_encoded(token: str) -> None:
    raw, encoded = token.encode(), quote(token, safe="").encode()
    assert parse_query(b"t=" + raw) == parse_query(b"t=" + encoded) == {"t": token}


@pytest.mark.parametrize("raw", [b"%ff", b"\xff", b"%C3", b"%ED%A0%80", b"%C0%80", b"%F4%90%80%80"])
def test_what_is_not_utf8_is_no_id(raw: bytes) -> None:
    with pytest.raises(InvalidClientId):
        check_client_id(parse_query(b"id=worker" + raw)["id"])


@given(ascii_queries)
@example("a=b=c&a=d")
@example("a=1&&b=2&")
@example("%=%&%4=%4&%ff=%ff%e6%bc%a2")
@example("a;b=c")
def test_queries_are_read_as_the_standard_library_reads_them(raw: str) -> None:
    """Apart from the ``+``, and with a key for what is empty."""
    theirs = dict(
        parse_qsl(raw.replace("+", "%2B"), keep_blank_values=True, errors="surrogateescape")
    )
    ours = parse_query(raw.encode())
    if "" not in theirs and "" in raw.split("&"):
        assert ours.pop("") == ""
    assert ours | theirs == ours
    assert set(ours) - set(theirs) <= {""}


@given(st.binary())
def test_any_bytes_are_a_query(raw: bytes) -> None:
    for value in parse_query(raw).values():
        value.encode("utf-8", "surrogateescape")


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_what_was_encoded_is_decoded(values: dict[str, str]) -> None:
    raw = urlencode(values, quote_via=quote).encode()
    assert parse_query(raw) == (values or {"": ""})


@given(st.text(st.characters(exclude_characters="&%+", exclude_categories=["Cs"])))
def test_what_needs_no_decoding_stays(value: str) -> None:
    assert parse_query(b"t=" + value.encode()) == {"t": value} == {"t": unquote(value)}


# Names of databases


@pytest.mark.parametrize(
    "name",
    [
        "mydb_data",
        "x",
        "constructor",
        "__proto__",
        "toString",
        "name with spaces",
        " ",
        "漢字",
        "😀",
        "a/b",
        "..",
        "a;b",
        "%20",
        "\u2028",
        "x" * 200,
        "😀" * 200,
    ],
)
def test_any_name_is_legal(name: str) -> None:
    assert check_database_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 201, "漢" * 201])
def test_a_name_has_1_to_200_characters(name: str) -> None:
    with pytest.raises(InvalidDatabaseName):
        check_database_name(name)


@pytest.mark.parametrize("control", [*CONTROLS, *LONE_SURROGATES])
def test_a_name_holds_no_control_characters(control: str) -> None:
    for name in (control, f"my{control}db", f"mydb{control}"):
        with pytest.raises(InvalidDatabaseName):
            check_database_name(name)


@given(names)
def test_names_without_control_characters_are_legal(name: str) -> None:
    assert check_database_name(name) == name


# Ids of clients


@pytest.mark.parametrize(
    "client_id",
    [
        "[master]",
        WORKER,
        "12345",
        "x" * 128,
        "漢" * 128,
        "😀" * 5,
        "😀" * 128,
        "a b:c=d&e",
        '"\\"\\"',
    ],
)
def test_an_id_has_5_to_128_characters(client_id: str) -> None:
    assert check_client_id(client_id) == client_id


@pytest.mark.parametrize(
    "client_id", [None, "", "1234", "漢字漢字", "😀😀😀😀", "x" * 129, "漢" * 129]
)
def test_an_id_has_neither_fewer_nor_more(client_id: str | None) -> None:
    with pytest.raises(InvalidClientId):
        check_client_id(client_id)


@pytest.mark.parametrize("wrong", [";", *CONTROLS, *LONE_SURROGATES])
def test_an_id_holds_no_semicolon_and_no_control_characters(wrong: str) -> None:
    for client_id in (f"{wrong}worker", f"wor{wrong}ker", f"worker{wrong}"):
        with pytest.raises(InvalidClientId):
            check_client_id(client_id)


@given(ids)
def test_other_ids_are_legal(client_id: str) -> None:
    assert check_client_id(client_id) == client_id


# Handshakes


@pytest.mark.parametrize("version", ["1", "1.0.0", "1.2", "1.99.99", "1.", "1.0.0-beta", "1.x"])
def test_version_1_is_spoken(version: str) -> None:
    assert accept(DATABASE, f"id=worker&v={version}&t=".encode()).client_id == "worker"


@pytest.mark.parametrize(
    "version",
    ["", "0", "0.1", "2", "2.0.0", "10", "10.0", "11.1", "01", "-1", ".1", "v1", " 1", "1a"],
)
def test_no_other_version_is(version: str) -> None:
    with pytest.raises(UnsupportedVersion):
        accept(DATABASE, f"id=worker&v={quote(version)}&t=".encode())


@pytest.mark.parametrize("query", [b"", b"id=worker", b"id=worker&t=x", b"V=1&id=worker", b"v"])
def test_the_version_may_not_be_missing(query: bytes) -> None:
    with pytest.raises(UnsupportedVersion):
        accept(DATABASE, query)


@pytest.mark.parametrize(
    "query", [b"v=1", b"v=1&id", b"v=1&id=", b"v=1&id=1234", b"v=1&id=a%3Bb%3Bc"]
)
def test_the_id_may_not_be_missing_or_wrong(query: bytes) -> None:
    with pytest.raises(InvalidClientId):
        accept(DATABASE, query)


@pytest.mark.parametrize("query", [b"", b"v=2&id=x", b"id=;;;;;;", b"v=2&id=x&dialect=x"])
def test_the_version_is_checked_before_the_id(query: bytes) -> None:
    with pytest.raises(UnsupportedVersion):
        accept(DATABASE, query)


def test_the_id_is_checked_before_the_dialect() -> None:
    with pytest.raises(InvalidClientId):
        accept(DATABASE, b"v=1&id=x&dialect=x")


def test_the_last_id_and_version_count() -> None:
    assert accept(DATABASE, b"id=first&v=2&v=1&id=second").client_id == "second"
    with pytest.raises(UnsupportedVersion):
        accept(DATABASE, b"id=first&v=1&v=2")


@given(names, ids, st.text())
def test_a_documented_handshake_is_accepted(database: str, client_id: str, token: str) -> None:
    query = f"id={quote(client_id, safe='')}&v=1.0.0&t={quote(token, safe='')}".encode()
    assert accept(database, query) == Handshake(
        database, client_id, Dialect.DOCUMENTED, dialect_settled=False
    )


@pytest.mark.parametrize(
    ("client_id", "query"),
    [
        ("[master]", b"v=1.0.0&id=[master]&t=undefined"),
        ("[master]", b"v=1.0.0&id=%5Bmaster%5D&t=undefined"),
        (WORKER, b"v=1.0.0&id=0123456789abcdefghijklmn&t=secret"),
        (WORKER, b"v=1.29.13&id=0123456789abcdefghijklmn&t="),
    ],
)
def test_a_published_client_is_known_by_its_handshake(client_id: str, query: bytes) -> None:
    assert accept(DATABASE, query) == Handshake(
        DATABASE, client_id, Dialect.ACEBASE, dialect_settled=True, restarts=True
    )


ACEBASE_QUERY = b"v=1&id=[master]&t=x"
DOCUMENTED_QUERY = b"id=[master]&v=1&t=x"


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("query", [ACEBASE_QUERY, DOCUMENTED_QUERY])
def test_the_query_may_tell_the_dialect(query: bytes, dialect: Dialect) -> None:
    asked = query + b"&dialect=" + dialect.value.encode()
    assert accept(DATABASE, asked) == Handshake(DATABASE, "[master]", dialect, dialect_settled=True)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("rest", [b"", b"&dialect=documented", b"&dialect=acebase", b"&dialect=?"])
@pytest.mark.parametrize("query", [ACEBASE_QUERY, DOCUMENTED_QUERY])
def test_the_servers_dialect_goes_before_all_else(
    query: bytes, rest: bytes, dialect: Dialect
) -> None:
    handshake = accept(DATABASE, query + rest, dialect)
    restarts = dialect is Dialect.ACEBASE and not rest
    assert handshake == Handshake(DATABASE, "[master]", dialect, True, restarts)


@pytest.mark.parametrize("dialect", [b"", b"auto", b"Acebase", b"acebase%20", b"DOCUMENTED"])
def test_a_query_cannot_ask_for_another_dialect(dialect: bytes) -> None:
    with pytest.raises(RequestRefused, match="documented or acebase") as caught:
        accept(DATABASE, DOCUMENTED_QUERY + b"&dialect=" + dialect)
    assert caught.value.status == 400
