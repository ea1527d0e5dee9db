"""What ``check`` finds about options, without starting a relay."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from acebase_ipc.cli.diagnosis import configuration
from acebase_ipc.cli.diagnosis.findings import mistaken_port
from tests.certificates import Certificate, make_certificate, make_pfx
from tests.cli.cluster import served
from tests.cli.conftest import Command
from tests.integration.raw import RawClient
from tests.integration.relay_process import endpoint, on_loopback, running_relay


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(autouse=True)
def _enough_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of open files is the machine's."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1_000_000))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def check(command: Command, *options: str) -> tuple[int, list[Any]]:
    """The exit status, and what was found."""
    checked = command("check", "--json", "--", *options)
    assert checked.errors == ""
    assert checked.json["ok"] == (checked.status == 0)
    return checked.status, checked.json["findings"]


def found(findings: list[Any], level: str) -> str:
    """The only finding of this *level*."""
    (finding,) = (each for each in findings if each["level"] == level)
    text = f"{finding['subject']}: {finding['text']} -> {finding['advice']}"
    assert finding["advice"] or level == "ok"
    return text


def test_options_with_which_a_relay_starts(
    command: Command, tmp_path: Path, certificate: Certificate
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a\nb_* c\n")
    tokens.chmod(0o600)
    certificate.pem.chmod(0o600)
    ports = (
        on_loopback(),
        on_loopback("ssl", privateKey=certificate.pem),
        endpoint("unix", str(tmp_path / "relay.sock")),
    )
    options = (
        *("--admin", on_loopback(), "--state-dir", str(tmp_path / "state")),
        *("--token-file", str(tokens)),
    )
    status, findings = check(command, *(f"--port={each}" for each in ports), *options)

    assert status == 0
    assert {each["level"] for each in findings} == {"ok"}
    texts = " ".join(each["text"] for each in findings)
    assert "holds 2 tokens" in texts
    assert "the certificate is valid until 2100-01-01" in texts
    assert list(tmp_path.iterdir()) == [tokens], "nothing was made"
    with running_relay(*ports, options=options) as relay, RawClient(relay.addresses[0]) as client:
        assert client.upgrade("/healthz").startswith(b"HTTP/1.1 200 ")


def test_a_configuration_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f'port = ["{on_loopback()}"]\ntoken = "a"\n')
    checked = command("check", str(file), "--json")
    assert checked.status == 0
    assert f"{file} holds a secret and is readable by all" in checked.output
    assert any(
        each["text"] == "the system chooses a free port" for each in checked.json["findings"]
    )

    file.write_text("fence = 1\nmax_paylod = 1\n")
    checked = command("check", "--config", str(file), "--json")
    assert checked.status == 1
    told = found(checked.json["findings"], "error")
    assert f"{file}, line 2: 'max_paylod' is no option: write max_payload" in told


def test_options_of_the_environment(command: Command) -> None:
    checked = command("check", "--port", "0", environment={"ACEBASE_IPC_FENCE": "soon"})

    assert checked.status == 1
    assert "ACEBASE_IPC_FENCE: 'soon' is not a number of seconds" in checked.output


def test_as_text(command: Command) -> None:
    checked = command("check", "--", "--port", "tcp:0")

    assert checked.status == 0
    assert "ok      options: they can be used together" in checked.lines
    assert "warning tcp:0: it is open to the network without a token" in checked.lines
    assert any(line.startswith("        -> ") for line in checked.lines)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--nonsense",), "option --nonsense not recognized"),
        (("--max-memory", "1"), "max_memory must be from"),
        (("--port", "tcp:99999"), "the port is not a whole number"),
        (("--token", "a", "--token-file", "b"), "give either token"),
        (("--port", "nonsense:1"), "nonsense"),
        (("--port", "ssl:0:interface=127.0.0.1:privateKey=missing.pem"), "missing.pem"),
        (("--port", "unix:missing/relay.sock"), "there is no directory"),
        (("--token-file", "missing"), "cannot read the token file"),
        (
            ("--port", "tcp:0:interface=192.0.2.1", "--token", "a"),
            "Cannot assign requested address",
        ),
        (("--state-dir", "missing/state"), "there is no directory"),
        (("--admin", "tcp:0"), "it is open to the network"),
    ],
)
def test_what_start_up_would_refuse(command: Command, options: tuple[str, ...], says: str) -> None:
    status, findings = check(command, *options)

    assert status == 1
    assert says in found(findings, "error")


@pytest.mark.parametrize("option", ["--port", "--admin"])
def test_a_taken_port(command: Command, taken: int, option: str) -> None:
    status, findings = check(command, option, f"tcp:{taken}:interface=127.0.0.1")

    assert status == 1
    assert "Address already in use" in found(findings, "error")


def test_one_port_twice(command: Command) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = f"tcp:{free.getsockname()[1]}:interface=127.0.0.1"
    status, findings = check(command, "--port", port, "--port", port)

    assert status == 1
    assert "Address already in use" in found(findings, "error")


def test_a_socket_and_a_directory_in_use(command: Command, tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    with served(*state, admin=f"unix:{tmp_path}/admin.sock"):
        _, socket_in_use = check(command, "--port", f"unix:{tmp_path}/admin.sock")
        _, directory_in_use = check(command, "--port", on_loopback(), *state)

    assert "another process listens there" in found(socket_in_use, "error")
    assert "another relay uses it" in found(directory_in_use, "error")


def test_a_stale_socket_and_a_file(command: Command, tmp_path: Path) -> None:
    stale, file = tmp_path / "stale.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    file.touch()

    assert check(command, "--port", f"unix:{stale}")[0] == 0
    assert stale.exists(), "it is left alone"
    assert "is no socket" in found(check(command, "--port", f"unix:{file}")[1], "error")


def test_a_key_of_another_certificate(
    command: Command, tmp_path: Path, certificate: Certificate
) -> None:
    other = make_certificate(tmp_path, name="other")
    port = on_loopback("ssl", privateKey=certificate.key, certKey=other.certificate)
    status, findings = check(command, "--port", port)

    assert status == 1
    assert "keys do not match" in found(findings, "error")


def test_tls_on_a_socket_of_systemd(command: Command, certificate: Certificate) -> None:
    certificate.pem.chmod(0o600)
    port = f"ssl:systemd:privateKey={certificate.pem}"
    status, findings = check(command, "--port", port)

    assert status == 0
    texts = [each["text"] for each in findings]
    assert "the certificate is valid until 2100-01-01" in texts
    assert "systemd gives the socket to the relay when it starts it" in texts
    assert "it is open to the network without a token" not in texts  # that is not known
    status, findings = check(command, "--port", f"{port}.missing")
    assert status == 1
    assert "it cannot be used" in found(findings, "error")


@pytest.mark.parametrize(
    ("now", "level", "says"),
    [
        (datetime(2019, 12, 31, tzinfo=UTC), "error", "not valid before 2020-01-01"),
        (datetime(2100, 1, 2, tzinfo=UTC), "error", "has expired on 2100-01-01"),
        (datetime(2100, 1, 1, tzinfo=UTC) - timedelta(days=13), "warning", "expires on 2100-01-01"),
    ],
)
@pytest.mark.parametrize("kind", ["ssl", "pfx"])
def test_when_a_certificate_is_valid(
    command: Command,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    now: datetime,
    level: str,
    says: str,
) -> None:
    monkeypatch.setattr(configuration, "now", lambda: now)
    certificate.pem.chmod(0o600)
    arguments: dict[str, str | Path] = {"privateKey": certificate.pem}
    if kind == "pfx":
        bundle = make_pfx(certificate, "sesame")
        bundle.chmod(0o600)
        arguments = {"path": bundle, "passphrase": "sesame"}
    status, findings = check(command, "--port", on_loopback(kind, **arguments))

    assert status == (level == "error")
    text = found(findings, level)
    assert says in text
    assert "sesame" not in text, "no passphrase is shown"


def test_what_is_only_worth_a_warning(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a\n")
    tokens.chmod(0o644)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    status, findings = check(command, "--port", "tcp:0", "--token-file", str(tokens))

    assert status == 0
    texts = [each["text"] for each in findings if each["level"] == "warning"]
    assert any("readable by all users" in each for each in texts)
    assert any("without TLS" in each for each in texts)
    assert any("may open 4,096 files: --max-connections is 3,996" in each for each in texts)
    assert len(texts) == 3
    _, findings = check(command, "--port", on_loopback(), "--max-connections", "5000")
    assert "may open 4,096 files, --max-connections 5,000 needs 5,100" in found(findings, "warning")


def test_a_port_that_is_mistaken_for_a_status() -> None:
    finding = mistaken_port(14031)

    assert finding is not None
    assert "contains 403" in finding.text
    assert mistaken_port(9163) is None


def test_systemd_and_unknown_kinds(command: Command) -> None:
    status, findings = check(command, "--port", "systemd:domain=INET:index=0")

    assert status == 0
    (skipped,) = (each for each in findings if each["level"] == "skipped")
    assert "systemd gives the socket" in skipped["text"]
