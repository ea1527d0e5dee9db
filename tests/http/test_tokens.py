"""Which tokens open which databases."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.errors import ConfigError
from acebase_ipc.http.tokens import FREE_FAILURES, Failures, Rule, Tokens, read_token_file
from acebase_ipc.protocol.handshake import parse_query

DATABASE = "mydb_data"
SECRET = "s3cret==+/"

GUARDED = Tokens([Rule(SECRET.encode())])


# One token


@pytest.mark.parametrize("presented", [[], [None], [""], ["undefined"], ["a", None]])
def test_without_tokens_anybody_may_come_in(presented: list[str | None]) -> None:
    assert not Tokens(None).required
    assert Tokens(None).allow(DATABASE, presented)


@pytest.mark.parametrize("presented", [[SECRET], [None, SECRET], ["wrong", SECRET], [SECRET, ""]])
def test_one_right_token_suffices(presented: list[str | None]) -> None:
    assert GUARDED.required
    assert GUARDED.allow(DATABASE, presented)
    assert GUARDED.allow(None, presented)


@pytest.mark.parametrize(
    "presented",
    [
        [],
        [None],
        [""],
        [None, ""],
        ["undefined"],
        [SECRET + " "],
        [" " + SECRET],
        [SECRET[:-1]],
        [SECRET + "\0"],
        [SECRET.upper()],
        [SECRET[:4], SECRET[4:]],
        ["\udcff"],
    ],
)
def test_no_other_token_is_right(presented: list[str | None]) -> None:
    assert not GUARDED.allow(DATABASE, presented)
    assert not GUARDED.allow(None, presented)


@given(st.text(min_size=1), st.text())
def test_only_the_same_text_opens(token: str, presented: str) -> None:
    tokens = Tokens([Rule(token.encode())])
    assert tokens.allow(DATABASE, [token])
    assert tokens.allow(DATABASE, [presented]) == (token == presented)


@given(st.binary())
def test_whatever_a_query_holds_can_be_presented(raw: bytes) -> None:
    query = parse_query(b"t=" + raw.replace(b"&", b"%26"))
    assert GUARDED.allow(DATABASE, [query["t"]]) == (query["t"] == SECRET)


def test_a_token_beyond_ascii_opens() -> None:
    tokens = Tokens([Rule("密碼".encode())])
    assert tokens.allow(DATABASE, [parse_query(b"t=%E5%AF%86%E7%A2%BC")["t"]])


# Several tokens, for some databases

RULES = Tokens(
    [
        Rule(b"all"),
        Rule(b"mine", "mydb_*"),
        Rule(b"mine", "other_data"),
        Rule(b"yours", "yourdb_data"),
    ]
)


@pytest.mark.parametrize(
    ("token", "opened"),
    [
        ("all", {"mydb_data", "MYDB_data", "other_data", "yourdb_data", "third"}),
        ("mine", {"mydb_data", "other_data"}),
        ("yours", {"yourdb_data"}),
        ("nobody's", set()),
    ],
)
def test_a_token_opens_what_a_rule_of_it_says(token: str, opened: set[str]) -> None:
    databases = {"mydb_data", "MYDB_data", "other_data", "yourdb_data", "third"}
    assert {each for each in databases if RULES.allow(each, [token])} == opened


def test_without_a_database_the_token_alone_counts() -> None:
    assert RULES.allow(None, ["yours"])
    assert not RULES.allow(None, ["nobody's"])


def test_a_database_that_no_rule_names_is_closed() -> None:
    tokens = Tokens([Rule(b"mine", "mydb_*")])
    assert tokens.required
    assert not tokens.allow("other_data", ["mine"])


def test_no_rule_at_all_opens_nothing() -> None:
    assert Tokens([]).required
    assert not Tokens([]).allow(DATABASE, ["any", ""])


def test_rules_may_come_from_anywhere() -> None:
    tokens = Tokens(Rule(each) for each in (b"one", b"two"))
    assert [tokens.allow(DATABASE, ["two"]) for _ in range(2)] == [True, True]


def test_all_candidates_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    assert Tokens([Rule(b"a"), Rule(b"b")]).allow(DATABASE, ["a", "x"])
    assert sorted(compared) == [(b"a", b"a"), (b"a", b"b"), (b"x", b"a"), (b"x", b"b")]


def test_no_token_is_shown() -> None:
    rule = Rule(b"hush", "mydb_*")
    assert repr(rule) == "Rule(pattern='mydb_*')"
    assert "hush" not in repr(Tokens([rule])) + str(Tokens([rule]))


# Token files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "token.txt"


@pytest.mark.parametrize(
    ("content", "rules"),
    [
        ("secret", [Rule(b"secret")]),
        ("secret\n", [Rule(b"secret")]),
        ("  secret\t\r\n", [Rule(b"secret")]),
        ("c2VjcmV0==\n", [Rule(b"c2VjcmV0==")]),
        ("密碼\n", [Rule("密碼".encode())]),
        ("one\ntwo\n", [Rule(b"one"), Rule(b"two")]),
        ("\n\n  \n# rotated in May\n  # indented\none\n\ntwo", [Rule(b"one"), Rule(b"two")]),
        ("mydb_* secret", [Rule(b"secret", "mydb_*")]),
        ("  mydb_* \t secret ", [Rule(b"secret", "mydb_*")]),
        ("my db secret", [Rule(b"secret", "my db")]),
        ("* secret", [Rule(b"secret")]),
        ("secret#1", [Rule(b"secret#1")]),
        ("mydb_* #1", [Rule(b"#1", "mydb_*")]),
        (
            "mydb_* one\nall\nother_data one",
            [Rule(b"one", "mydb_*"), Rule(b"all"), Rule(b"one", "other_data")],
        ),
    ],
)
def test_a_line_is_a_token_or_a_pattern_and_a_token(
    file: Path, content: str, rules: list[Rule]
) -> None:
    file.write_text(content, encoding="utf-8", newline="")
    assert read_token_file(file) == tuple(rules)
    assert read_token_file(str(file)) == tuple(rules)


def test_a_byte_order_mark_is_no_part_of_a_token(file: Path) -> None:
    file.write_text("secret\n", encoding="utf-8-sig")
    assert read_token_file(file) == (Rule(b"secret"),)


@pytest.mark.parametrize("content", ["", "\n", "  \t\n \n", "# secret", "\n#\n"])
def test_a_file_holds_a_token(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"token\.txt' holds no token"):
        read_token_file(file)


def test_a_file_is_utf8(file: Path) -> None:
    file.write_bytes(b"hush\n\xff\n")
    with pytest.raises(ConfigError, match=r"token\.txt': it is not UTF-8 text") as caught:
        read_token_file(file)
    assert "hush" not in str(caught.value)


def test_a_file_exists(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"token\.txt': No such file or directory"):
        read_token_file(file)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        read_token_file(tmp_path)


# Guessing


def test_failures_are_counted_by_address_and_minute() -> None:
    failures = Failures()
    assert [failures.note("one", 100 + each) for each in range(FREE_FAILURES + 2)] == list(
        range(1, FREE_FAILURES + 3)
    )
    assert failures.note("two", 130) == 1
    assert failures.note("one", 159.9) == FREE_FAILURES + 3
    assert failures.note("one", 160) == 1
    assert failures.note("two", 160) == 1


def test_ten_wrong_tokens_are_answered_at_once() -> None:
    assert FREE_FAILURES == 10


def test_memory_for_failures_is_bounded() -> None:
    failures = Failures()
    for each in range(10_000):
        failures.note(f"address {each}", 1)
    assert failures.note("one more", 1) == failures.note("one more", 1) == 1
    assert failures.note("address 9999", 1) == 2
