"""What a running relay takes over of a changed configuration, of token files and certificates."""

from __future__ import annotations

import itertools
import os
import ssl
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.logger import capturedLogs, eventAsText
from twisted.plugin import getPlugins

from acebase_ipc.http.tokens import Rule, read_token_file
from acebase_ipc.relay.limits import MIB, Limits, describe_limits
from acebase_ipc.server.watched_files import WATCH_INTERVAL
from acebase_ipc.testing import HandshakeRefused, MemoryConnection, MemoryRelay
from tests.certificates import Certificate, make_certificate, make_pfx

LIMITS = {each.name for each in fields(Limits)}


def reload(relay: MemoryRelay, **changes: Any) -> tuple[bool, list[str]]:
    """Reload with changed limits or fields; returns whether that was done, and what is logged."""
    config = relay.server.config
    limits = {name: value for name, value in changes.items() if name in LIMITS}
    others = {name: value for name, value in changes.items() if name not in LIMITS}
    with capturedLogs() as events:
        done = relay.server.reload(
            replace(config, limits=replace(config.limits, **limits), **others)
        )
    relay.settle()
    return done, [eventAsText(each, includeTimestamp=False) for each in events]


def said(lines: list[str], beginning: str) -> str:
    """The rest of the only line that says something that begins so."""
    (rest,) = (line.partition(beginning)[2] for line in lines if f"] {beginning}" in line)
    return rest


# Options


def test_the_log_says_what_has_changed_and_what_needs_a_restart() -> None:
    with MemoryRelay(token="hush") as relay:
        done, lines = reload(
            relay,
            allow_origins=("https://example.org",),
            max_message=MIB,
            token="hush hush",
            max_payload=100,
            endpoints=("tcp:1", "pfx:2:path=a:passphrase=hush"),
            introductions=False,
        )

        assert done
        assert said(lines, "changed: ") == "token, allow_origin, max_message"
        assert said(lines, "not changed, as it needs a restart: ") == (
            "port, no_introductions, max_payload"
        )
        assert "hush" not in "".join(lines)
        assert relay.server.config.introductions


def test_an_admin_endpoint_keeps_its_tokens_until_the_restart_that_closes_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "admin-token"
    file.write_text("secret")
    with MemoryRelay(admin=("tcp:0:interface=127.0.0.1",), admin_token_file=str(file)) as relay:
        done, lines = reload(relay, admin=(), admin_token_file=None, max_message=MIB)

        assert done
        assert said(lines, "changed: ") == "max_message"
        assert said(lines, "not changed, as it needs a restart: ") == "admin, admin_token_file"
        assert relay.server.config.admin_token_file == str(file)


def test_a_new_admin_endpoint_with_tokens_does_not_prevent_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "admin-token"
    file.write_text("secret")
    with MemoryRelay(token="a") as relay:
        done, lines = reload(
            relay, token="b", admin=("tcp:0:interface=127.0.0.1",), admin_token_file=str(file)
        )

        assert done
        assert said(lines, "changed: ") == "token"
        assert said(lines, "not changed, as it needs a restart: ") == "admin, admin_token_file"
        relay.join("alice", token="b")


def test_without_a_change_nothing_is_said_about_options() -> None:
    with MemoryRelay() as relay:
        assert reload(relay) == (
            True,
            ["[acebase_ipc.server.service#info] the configuration was read again"],
        )


def test_a_file_that_cannot_be_used_changes_nothing() -> None:
    with MemoryRelay() as relay:
        done, lines = reload(relay, token_file="missing", max_message=MIB)

        assert not done
        assert "cannot read the token file" in said(lines, "nothing is reloaded: ")
        assert relay.server.config.limits.max_message == Limits().max_message


def test_a_smaller_message_is_the_largest_from_now_on() -> None:
    with MemoryRelay(max_payload=10) as relay:
        relay.join("alice", "books_data")
        target = "/books_data/send?id=alice"
        assert relay.post(target, "x" * 200).status == 200
        reload(relay, max_message=100)

        assert relay.post(target, "x" * 200).status == 413
        assert relay.post(target, "x" * 100).status == 200


def test_sessions_are_kept_for_the_new_time() -> None:
    with MemoryRelay(session_timeout=100) as relay:
        bobby = relay.join("bobby")
        for name, timeout in (("alice", 5), ("carol", 60)):
            reload(relay, session_timeout=timeout, session_timeout_closed=timeout)
            relay.join_acebase(name).connection.reset()
            relay.settle()
        relay.pass_time(20)

        assert [each for each in bobby.received() if each.startswith("dis")] == ["disconnect:alice"]


def test_fewer_connections_are_accepted() -> None:
    with MemoryRelay() as relay:
        relay.join("alice")
        reload(relay, max_connections=1)
        with pytest.raises(HandshakeRefused, match="503"):
            relay.join("bobby")
        reload(relay, max_connections=3, max_database_connections=1)
        with pytest.raises(HandshakeRefused, match="503"):
            relay.join("bobby")
        relay.join("bobby", "other_data")


def test_every_limit_that_is_said_to_be_reloaded_reaches_the_relay() -> None:
    """None of the parts that take limits keeps a value of its own."""
    with MemoryRelay() as relay:
        parts = relay.server._parts
        core = parts.relay
        before = [vars(each).copy() for each in (core.sessions, core.delivery, core.registry)]
        changes = {
            name: (getattr(Limits(), name) or 0) + 1
            for name, each in describe_limits().items()
            if each.reloads
        }
        _, lines = reload(relay, **changes)

        assert said(lines, "changed: ") == ", ".join(changes)
        held = [
            *(vars(each) for each in (core.sessions, core.delivery, core.registry)),
            *(vars(each) for each in (core.sessions._fences, core._lock_watch, core._warm_up)),
            *(vars(each) for each in (core.memory, core.store, core.lock_sessions, core.histories)),
            *(vars(each) for each in (parts.uploads, parts.site, parts.connections)),
        ]
        values = [value for each in held for value in each.values()]
        assert before != held[:3]
        for name, value in changes.items():
            assert value in values, name


# Databases


def test_only_databases_that_match_are_served() -> None:
    with MemoryRelay(databases=("books_*", "shop_data")) as relay:
        relay.join("alice", "books_data")
        relay.join("alice", "shop_data")
        with pytest.raises(HandshakeRefused, match="403"):
            relay.join("alice", "Books_data")
        with pytest.raises(HandshakeRefused, match="403"):
            relay.join("alice", "other_data")
        assert relay.get("/other_data/clients").status == 403
        assert relay.post("/other_data/send?id=alice", "x").status == 403
        assert relay.get("/other_data/receive?id=alice&msg=x").status == 403
        assert relay.get("/books_data/clients").status == 200
        assert len(relay.logged("is refused: 403 This relay does not serve this database")) == 5
        assert relay.server.counts["Refused"] == 5


def test_a_wrong_token_does_not_tell_which_databases_are_served() -> None:
    with MemoryRelay(databases=("books_*",), token="a") as relay:
        answers = {relay.get(f"/{each}/clients?t=b").body for each in ("books_data", "other")}
        assert answers == {b"Unauthorized"}
        assert relay.get("/other/clients?t=a").status == 403


def test_peers_of_a_database_that_is_not_served_any_more_are_disconnected() -> None:
    with MemoryRelay() as relay:
        alice, bobby = relay.join("alice", "books_data"), relay.join("bobby", "other_data")
        reload(relay, databases=("books_*",))

        assert alice.close_code is None
        assert (bobby.close_code, bobby.close_reason) == (
            1008,
            "the database is not served any more",
        )


def test_a_request_without_a_database_finds_no_peer_of_one_that_is_not_served() -> None:
    with MemoryRelay() as relay:
        relay.join_acebase("alice", "other_data").connection.reset()
        relay.settle()
        assert relay.post("/send?id=alice", "x").status == 200
        reload(relay, databases=("books_*",))

        assert relay.post("/other_data/send?id=alice", "x").status == 403
        assert relay.post("/send?id=alice", "x").status == 404


# Files


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def served_certificate(relay: MemoryRelay) -> str:
    """The certificate that a new connection is shown, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    assert relay.port is not None
    wire = MemoryConnection(
        relay.reactor, relay.reactor.connect(relay.port, "127.0.0.1"), relay.settle, secure=False
    )
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            wire.send(outgoing.read())
            incoming.write(wire.take())
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


HAS_TLS = "tls" in {each.prefix for each in getPlugins(IStreamServerEndpointStringParser)}
"""Whether Twisted has ``tls:``: from 26.4 on."""

KINDS = ("ssl", "pfx", *(("tls",) if HAS_TLS else ()))


def renew(tmp_path: Path, kind: str) -> tuple[str, Certificate, Certificate, list[Any]]:
    """A port, its certificate, another one, and which files to replace by which."""
    certificate, other = make_certificate(tmp_path), make_certificate(tmp_path, name="other")
    if kind == "ssl":
        files = [(other.key, certificate.key), (other.certificate, certificate.certificate)]
        port = f"ssl:0:privateKey={certificate.key}:certKey={certificate.certificate}"
    if kind == "pfx":
        bundle = make_pfx(certificate, "sesame")
        files = [(make_pfx(other, "sesame"), bundle)]
        port = f"pfx:0:path={bundle}:passphrase=sesame"
    if kind == "tls":
        directory = tmp_path / "by_name"
        directory.joinpath("deeper").mkdir(parents=True)
        served = directory / "deeper" / "localhost.pem"
        served.write_bytes(certificate.pem.read_bytes())
        files = [(other.pem, served)]
        port = f"tls:{directory}:0"
    return port, certificate, other, files


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_certificate_is_used_by_new_connections(tmp_path: Path, kind: str) -> None:
    port, certificate, other, files = renew(tmp_path, kind)
    with MemoryRelay(endpoints=(port,)) as relay:
        assert served_certificate(relay) == certificate.certificate.read_text()
        expected = other.certificate.read_text()
        before = relay.join("alice")
        for new, old in files:
            os.replace(new, old)
        done, lines = reload(relay)

        assert done
        assert [each.partition("] ")[2] for each in lines] == ["the certificates were read again"]
        assert served_certificate(relay) == expected
        assert before.close_code is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_renewed_certificate_is_noticed(tmp_path: Path, kind: str) -> None:
    port, _, other, files = renew(tmp_path, kind)
    expected = other.certificate.read_text()
    with MemoryRelay(endpoints=(port,)) as relay:
        before = relay.join("alice")
        for new, old in files:
            old.write_bytes(new.read_bytes())
        relay.pass_time(3 * WATCH_INTERVAL)

        assert served_certificate(relay) == expected
        assert before.close_code is None


def test_a_certificate_that_cannot_be_used_changes_nothing(
    tmp_path: Path, certificate: Certificate
) -> None:
    other = make_certificate(tmp_path, name="other")
    port = f"ssl:0:privateKey={certificate.key}:certKey={certificate.certificate}"
    with MemoryRelay(endpoints=(port,)) as relay:
        shown = served_certificate(relay)
        os.replace(other.key, certificate.key)
        done, lines = reload(relay, max_message=MIB)

        assert not done
        assert said(lines, "nothing is reloaded: ").startswith(
            "cannot use the certificate of 'ssl:0"
        )
        assert served_certificate(relay) == shown
        assert relay.server.config.limits.max_message != MIB


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A token file as Kubernetes mounts it: its directory is a link that is swapped."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "token").symlink_to("..data/token")
    return tmp_path / "token"


def swap(secret: Path, target: str) -> None:
    new = secret.parent / "..data_tmp"
    new.symlink_to(target)
    os.replace(new, secret.parent / "..data")


def test_a_token_file_whose_link_is_swapped_is_read_again(secret: Path) -> None:
    with MemoryRelay(token_file=str(secret)) as relay:
        peer = relay.join("alice", token="first")
        swap(secret, "second")
        relay.pass_time(3 * WATCH_INTERVAL)

        assert peer.close_code == 1008
        relay.join("bobby", token="second")
        assert len(relay.logged("the tokens were read again")) == 1


def test_a_token_file_that_is_written_in_its_place_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    with MemoryRelay(token_file=str(file)) as relay:
        file.write_bytes(b"\xef\xbb\xbf# ours\r\nbooks_* second\r\n")
        relay.pass_time(3 * WATCH_INTERVAL)

        relay.join("bobby", "books_data", token="second")


def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    with MemoryRelay(token_file=str(file)) as relay:
        for number in range(10):
            file.write_text("second" + "x" * number)
            relay.pass_time(WATCH_INTERVAL)
            assert relay.logged("the tokens were read again") == []


@pytest.mark.parametrize("again", [False, True])
def test_a_token_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """At the start, and on SIGHUP."""
    file = tmp_path / "token"
    file.write_text("first")

    def read_too_early(path: str) -> tuple[Rule, ...]:
        rules = read_token_file(path)
        if (count := next(reads)) == again:
            file.write_text(f"token-{count}")
        return rules

    reads = itertools.count()
    monkeypatch.setattr("acebase_ipc.server.config.read_token_file", read_too_early)
    with MemoryRelay(token_file=str(file)) as relay:
        if again:
            reload(relay)
        relay.pass_time(3 * WATCH_INTERVAL)

        relay.join("alice", token=f"token-{again:d}")


def test_a_token_file_that_is_gone_is_told_once_and_its_tokens_stay(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    with MemoryRelay(token_file=str(file)) as relay:
        file.unlink()
        relay.pass_time(20)

        assert len(relay.logged("nothing is reloaded", "cannot read the token file")) == 1
        relay.join("alice", token="first")
        file.write_text("second")
        relay.pass_time(3 * WATCH_INTERVAL)
        relay.join("bobby", token="second")


def test_a_file_that_a_reload_could_not_use_is_not_told_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    with MemoryRelay(token_file=str(file)) as relay:
        file.write_text("")
        assert not reload(relay)[0]
        relay.pass_time(20)

        assert relay.logged("nothing is reloaded") == []
