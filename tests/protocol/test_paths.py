"""The paths of a database."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.paths import is_wildcard, normal_path, path_to_follow


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("", ""),
        ("/", ""),
        ("users", "users"),
        ("/users/*/posts/$id/", "users/*/posts/$id"),
        ("list[3]/name", "list[3]/name"),
        ("list[3][4]", "list[3][4]"),
        ("[3]", "[3]"),
        ("käse/ä b.c", "käse/ä b.c"),
        ("users/constructor", "users/constructor"),
        ("x" * 128, "x" * 128),
        ("tab\tkey", "tab\tkey"),
    ],
)
def test_a_path_is_taken_without_slashes_at_its_ends(path: str, normal: str) -> None:
    assert normal_path(path) == normal


@pytest.mark.parametrize(
    "path",
    ["a//b", "list/[3]", "a/b]", "a[x]", "a[", "a\\b", "a\0b", "\x1f", "a\n\x0bb", "[3]x", "a[3]b"],
)
def test_what_acebase_cannot_have_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        normal_path(path)


@pytest.mark.parametrize("path", ["x" * 129, "a/" + "💡" * 65, "a/" + "x" * 129 + "[1]"])
def test_a_long_key_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="at most 128"):
        normal_path(path)
    normal_path(path.replace("x", "", 1).replace("💡", "", 1))


@pytest.mark.parametrize("path", ["constructor", "/__proto__/", "toString"])
def test_what_ends_processes_of_the_npm_package_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="do not survive"):
        normal_path(path)


@pytest.mark.parametrize("path", ["*", "users/*", "$id", "users/$id/name"])
def test_a_path_with_a_wildcard_stands_for_many(path: str) -> None:
    assert is_wildcard(path)


@pytest.mark.parametrize("path", ["", "users", "a*b", "a$b/c"])
def test_another_path_stands_for_itself(path: str) -> None:
    assert not is_wildcard(path)


@pytest.mark.parametrize("path", ["*", "/orders/*/", "orders/$id"])
def test_changes_cannot_be_followed_under_a_path_with_wildcards(path: str) -> None:
    with pytest.raises(ValueError, match="wildcards"):
        path_to_follow(path)


def test_a_path_to_follow_is_a_normal_one() -> None:
    assert path_to_follow("/orders/a/") == "orders/a"
