"""The options of ``twistd acebase-ipc``, and the service that they make."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import IService, ServiceMaker
from twisted.application.twist._options import TwistOptions
from twisted.logger import FilteringLogObserver, Logger, LogLevelFilterPredicate
from twisted.python.usage import Options as ParentOptions
from twisted.python.usage import UsageError
from twisted.scripts._twistd_unix import ServerOptions

from acebase_ipc import AceBaseIPCServerConfig, ConfigError, Limits
from acebase_ipc.http.tokens import Rule
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import GIB, KIB, MIB, describe_limits
from acebase_ipc.server import settings
from acebase_ipc.server.daemon import Daemon
from acebase_ipc.server.logging import FileOutput, StreamOutput, SyslogOutput
from acebase_ipc.tap import Options, makeService

TOKEN_VARIABLE = "ACEBASE_IPC_TOKEN"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ACEBASE_IPC_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of memory and of open files are the machine's."""
    monkeypatch.setattr(settings, "lowered_defaults", dict)


@pytest.fixture(autouse=True)
def _restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def configured(*arguments: str) -> AceBaseIPCServerConfig:
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings.config


def made(*arguments: str) -> IService:
    options = Options()
    options.parseOptions(list(arguments))
    return makeService(options)


def refusal(*arguments: str) -> str:
    """The last line that the process writes before it ends with status 1."""
    with pytest.raises((UsageError, SystemExit)) as caught:
        made(*arguments)
    if isinstance(caught.value, SystemExit):
        # The interpreter writes a text and makes it status 1; twistd does so for usage errors.
        assert isinstance(caught.value.code, str)
        assert caught.value.code.startswith("acebase-ipc: ")
    return str(caught.value)


def test_without_options_the_config_has_its_defaults() -> None:
    options = configured()
    assert options == AceBaseIPCServerConfig(endpoints=("9163",))


# Ports


@pytest.mark.parametrize("option", ["--port={}", "--port {}", "-p {}", "-p{}"])
def test_a_port_has_a_long_and_a_short_option(option: str) -> None:
    assert configured(*option.format("tcp:1").split()).endpoints == ("tcp:1",)


def test_ports_are_collected_in_their_order() -> None:
    arguments = ["--port", "tcp:2", "-p", "unix:/a", "--token", "x", "--port", "tcp:1"]
    assert configured(*arguments).endpoints == ("tcp:2", "unix:/a", "tcp:1")


def test_two_command_lines_do_not_share_ports() -> None:
    configured("--port", "tcp:1", "--allow-origin", "https://a.example", "--allow-host", "b")
    again = configured("--port", "tcp:2")
    assert (again.endpoints, again.allow_origins, again.allow_hosts) == (("tcp:2",), (), ())


def test_tls_on_one_port_makes_the_larger_default() -> None:
    assert configured("-p", "tcp:1").effective_limits.payload_limit == 16 * KIB
    assert (
        configured("-p", "tcp:1", "-p", "ssl:2:privateKey=a").effective_limits.payload_limit
        == 16 * MIB
    )
    limits = configured("-p", "ssl:2:privateKey=a", "--max-payload", "16KiB").effective_limits
    assert limits.payload_limit == 16 * KIB


# Sizes, times and numbers


@pytest.mark.parametrize(
    ("text", "value"), [("16384", 16384), ("16KiB", 16384), ("16MiB", 16 * MIB), ("1 GiB", GIB)]
)
def test_sizes_may_have_units(text: str, value: int) -> None:
    assert configured("--max-payload", text).limits.max_payload == value
    assert configured(f"--max-message={text}").limits.max_message == value


@pytest.mark.parametrize("name", describe_limits())
def test_every_limit_is_an_option(name: str) -> None:
    limit = describe_limits()[name]
    value = 7.5 if limit.unit == "seconds" else 3 * MIB
    expected: dict[str, Any] = {name: value}
    config = configured("--" + name.replace("_", "-"), f"{value}")
    assert config == AceBaseIPCServerConfig(
        endpoints=configured().endpoints, limits=Limits(**expected)
    )


@pytest.mark.parametrize("name", describe_limits())
@pytest.mark.parametrize("text", ["", "x", "-1", "16KB", "nan", "inf", "1e400"])
def test_no_limit_is_that(name: str, text: str) -> None:
    assert refusal("--" + name.replace("_", "-"), text)


@pytest.mark.parametrize("name", ["session_timeout", "session_timeout_closed", "fence"])
def test_a_time_that_can_be_off_may_be_0(name: str) -> None:
    option = "--" + name.replace("_", "-")
    assert getattr(configured(option, "0").limits, name) == 0


def test_a_limit_out_of_its_range_is_named() -> None:
    assert "max_payload must be from 1 to " in refusal("--max-payload", "0")
    assert "message_ttl must be from 1 to " in refusal("--message-ttl", "0")


# The other options


@pytest.mark.parametrize(
    ("text", "dialect"),
    [("auto", None), ("documented", Dialect.DOCUMENTED), ("acebase", Dialect.ACEBASE)],
)
def test_the_dialect(text: str, dialect: Dialect | None) -> None:
    assert configured("--dialect", text).dialect is dialect


@pytest.mark.parametrize("text", ["", "Auto", "acebase ", "other"])
def test_no_other_dialect(text: str) -> None:
    assert "--dialect: must be auto, documented or acebase" in refusal("--dialect", text)


def test_introductions_can_be_turned_off() -> None:
    assert configured().introductions
    assert not configured("--no-introductions").introductions


def test_the_recovery_of_locks_can_be_turned_off() -> None:
    assert configured().lock_recovery
    assert not configured("--no-lock-recovery").lock_recovery


def test_origins_and_hosts_are_collected() -> None:
    config = configured(
        *("--allow-origin", "https://a.example", "--allow-host", "a.example"),
        *("--allow-origin", "https://b.example", "--allow-host", "b.example"),
        *("--trust-proxy", "10.0.0.0/8", "--trust-proxy", "unix"),
    )
    assert config.allow_origins == ("https://a.example", "https://b.example")
    assert config.allow_hosts == ("a.example", "b.example")
    assert config.trust_proxy == ("10.0.0.0/8", "unix")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--unknown"], "option --unknown not recognized"),
        (["-x"], "option -x not recognized"),
        (["--port"], "option --port requires argument"),
        (["--max-payload"], "option --max-payload requires argument"),
        (["--no-introductions=1"], "option --no-introductions must not have an argument"),
        (["--no-lock-recovery=1"], "option --no-lock-recovery must not have an argument"),
        (["9163"], "Wrong number of arguments."),
        (["--token", ""], "--token: the token must not be empty: leave it out to require no token"),
    ],
)
def test_what_is_no_option(arguments: list[str], reason: str) -> None:
    assert refusal(*arguments) == reason


# The state directory


def test_the_state_directory_is_absolute() -> None:
    assert configured().state_dir is None
    assert configured("--state-dir", "state").state_dir == os.path.abspath("state")


def test_a_state_directory_is_of_no_use_without_lock_recovery() -> None:
    assert "needs lock_recovery" in refusal("--state-dir", "state", "--no-lock-recovery")


# The token


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    file = tmp_path / "token.txt"
    file.write_text("from the-file\n")
    return str(file)


def test_the_token_may_be_an_option() -> None:
    assert configured("--token", "a+b/c==").rules() == (Rule(b"a+b/c=="),)


def test_the_token_may_be_in_a_file(token_file: str) -> None:
    assert configured("--token-file", token_file).rules() == (Rule(b"the-file", "from"),)


def test_the_token_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "from-environment")
    assert configured().rules() == (Rule(b"from-environment"),)


def test_options_go_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, token_file: str
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "from-environment")
    assert configured("--token", "a").rules() == (Rule(b"a"),)
    assert configured("--token-file", token_file).rules() == (Rule(b"the-file", "from"),)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_environment_variable_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, text)
    assert refusal().startswith(f"{TOKEN_VARIABLE}: the token must not be empty")


@pytest.mark.parametrize("text", ["secret\n", "secret\r\n", " secret ", "\ufeffsecret"])
def test_every_source_of_a_token_is_cleaned_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    expected = (Rule(b"secret"),)
    assert configured("--token", text).rules() == expected
    assert configured("--token-file", str(file)).rules() == expected
    assert AceBaseIPCServerConfig(token=text).rules() == expected
    monkeypatch.setenv(TOKEN_VARIABLE, text)
    assert configured().rules() == expected


def test_a_token_file_without_a_name_is_a_mistake() -> None:
    assert refusal("--token-file", "").startswith("token_file must not be empty")


def test_there_is_one_place_for_tokens(token_file: str) -> None:
    told = refusal("--token", "hush", "--token-file", token_file)
    assert told == "give either token (--token) or token_file (--token-file)"


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "missing")
    assert refusal("--token-file", path).endswith(
        f"cannot read the token file {path!r}: No such file or directory"
    )


def test_an_empty_token_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_text("# none\n")
    assert refusal("--token-file", str(path)).endswith(f"{str(path)!r} holds no token")


def test_a_token_that_is_not_text() -> None:
    """Python makes such a string of arguments and variables that are not UTF-8."""
    assert refusal("--token", chr(0xDCFF))


# Help


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        Options().parseOptions(list(arguments))
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == f"acebase-ipc {version('acebase-ipc')}\n"


class Twistd(ParentOptions):
    """As ``twistd`` finds the options."""

    synopsis = "Usage: twistd [options]"
    subCommands = [("acebase-ipc", None, Options, "A relay")]  # noqa: RUF012


@pytest.fixture
def usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        Twistd().parseOptions(["acebase-ipc", "--help"])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


def test_help_begins_with_the_synopsis(usage: str) -> None:
    assert usage.splitlines()[0] == "Usage: twistd [options] acebase-ipc [options]"


def test_help_has_a_description_and_two_examples(usage: str) -> None:
    assert "\nRelays lock requests, " in usage
    examples = [line for line in usage.splitlines() if line.startswith("    twistd -n ")]
    assert len(examples) == 2
    for example in examples:
        _, _, arguments = example.partition(" acebase-ipc ")
        assert configured(*arguments.split()).endpoints


def test_help_tells_of_tls_with_a_passphrase_and_of_the_environment(usage: str) -> None:
    for word in ("ssl:", "pfx:9163:path=", "passphraseFile=", "openssl pkcs12", TOKEN_VARIABLE):
        assert word in usage


def entries(usage: str) -> dict[str, str]:
    """The text of each option in the help, in one line."""
    found = re.findall(r"^  (?:-., )?--(\S+)(.*(?:\n {30}.*)*)", usage, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def test_help_has_a_text_for_every_option(usage: str) -> None:
    texts = entries(usage)
    assert set(texts) == {each.rstrip("=") for each in Options().longOpt}
    assert all(len(text) > 10 for text in texts.values())


def test_help_has_groups(usage: str) -> None:
    groups = re.findall(r"^(\S+):$", usage, re.MULTILINE)
    expected = ["Listen", "Access", "AceBase", "Log", "Process", "Cluster", "Limits", "General"]
    assert groups == expected


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("max-payload", "16KiB, or 16MiB with TLS"),
        ("max-message", "64MiB"),
        ("max-stored", "256MiB"),
        ("max-backlog", "64MiB"),
        ("max-memory", "1GiB, or half of the control group's memory limit"),
        ("max-connections", "20000, or as many as the limit of open files allows"),
        ("max-address-connections", "off"),
        ("message-ttl", "60"),
        ("session-timeout", "15"),
        ("session-timeout-closed", "5"),
        ("fence", "600"),
        ("lock-warning", "10"),
    ],
)
def test_help_tells_the_default_of_a_limit(usage: str, name: str, default: str) -> None:
    assert entries(usage)[name].endswith(f"[default: {default}]")


def test_help_spells_the_units_as_they_are(usage: str) -> None:
    assert ", in UTF-16 code units." in entries(usage)["max-payload"]


def test_help_fits_a_terminal(usage: str) -> None:
    assert [line for line in usage.splitlines() if len(line) > 80] == []


# The service


def test_the_service_runs_the_server_that_was_described() -> None:
    service: Any = made("--port", "tcp:0:interface=127.0.0.1", "--token", "a")
    assert isinstance(service, Daemon)
    assert service.server.config == AceBaseIPCServerConfig(
        endpoints=("tcp:0:interface=127.0.0.1",), token="a"
    )


@pytest.mark.parametrize(
    "description",
    ["99999", "", "nonsense:1", "tcp:", "tcp:abc", "tcp", "ssl:0:privateKey=/missing"],
)
def test_an_endpoint_that_cannot_be_used_ends_it_with_one_line(description: str) -> None:
    told = refusal("--port", "tcp:0", "--port", description)
    assert f": cannot listen on {description!r}: " in told
    assert "\n" not in told


# The log and the process


class TwistdOptions(ServerOptions):
    """The options of ``twistd`` with those of the relay, but no other plugin's."""

    subCommands = [("acebase-ipc", None, Options, "A relay")]  # noqa: RUF012


def under_twistd(*arguments: str) -> Options:
    """The relay's options after ``twistd`` has parsed a command line."""
    twistd: Any = TwistdOptions()
    twistd.parseOptions([*arguments])
    options: Options = twistd.subOptions
    return options


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--nodaemon"], StreamOutput),
        (["--nodaemon", "--logfile=-"], StreamOutput),
        (["--nodaemon", "--logfile=relay.log"], FileOutput),
        ([], FileOutput),
        (["--syslog"], SyslogOutput),
        (["--syslog", "--nodaemon", "--logfile=relay.log"], SyslogOutput),
    ],
)
@pytest.mark.parametrize("options", [[], ["--log-format=json"], ["--log-level=warn"]])
def test_the_log_is_written_where_twistd_would(
    arguments: list[str],
    output: type,
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = under_twistd(*arguments, "acebase-ipc", *options).log_writer()
    assert writer is not None
    assert type(writer.output) is output


def test_a_daemon_cannot_log_to_standard_output() -> None:
    with pytest.raises(ConfigError, match="--logfile"):
        under_twistd("--logfile=-", "acebase-ipc").log_writer()


def test_a_log_that_cannot_be_written_ends_it_with_one_line(tmp_path: Path) -> None:
    options = under_twistd(f"--logfile={tmp_path}/missing/relay.log", "acebase-ipc")
    with pytest.raises(SystemExit, match=r"^acebase-ipc: cannot write the log '.*missing"):
        makeService(options)


def test_a_logger_of_twistds_own_is_left_alone() -> None:
    options = under_twistd("--nodaemon", "--logger=twisted.logger.LogPublisher", "acebase-ipc")
    assert options.log_writer() is None


@pytest.mark.parametrize(
    ("of_twist", "ours", "written"),
    [
        ([], [], r"\{.*\}"),
        (["--log-format=text"], [], r"\S+ \[tests#info\] hello"),
        ([], ["--log-format=text"], r"\S+ \[tests#info\] hello"),
        (["--log-format=text"], ["--log-format=json"], r"\{.*\}"),
        (["--log-format=text", "--log-level=warn"], [], ""),
        (["--log-format=text"], ["--log-level=warn"], ""),
        (["--log-level=warn"], ["--log-format=text", "--log-level=debug"], r".* hello"),
    ],
)
def test_twist_writes_its_log_as_it_is_told(
    of_twist: list[str], ours: list[str], written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twist: Any = TwistOptions()
    maker = ServiceMaker("relay", "acebase_ipc.tap", "", "acebase-ipc")
    twist["plugins"] = {"acebase-ipc": maker}
    twist.parseOptions([*of_twist, "acebase-ipc", *ours])
    file = io.StringIO()
    observer = twist["fileLogObserverFactory"](file)
    predicate = LogLevelFilterPredicate(defaultLogLevel=twist["logLevel"])
    filtered = FilteringLogObserver(observer, [predicate])
    Logger(namespace="tests", observer=filtered).info("hello")
    assert re.fullmatch(written, file.getvalue().strip())


def test_a_stale_pid_file_is_removed_before_twistd_looks_at_it(tmp_path: Path) -> None:
    path = tmp_path / "twistd.pid"
    path.write_text(str(os.getpid()))
    under_twistd(f"--pidfile={path}", "acebase-ipc")
    assert not path.exists()
