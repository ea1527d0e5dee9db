"""Options from the command line, the environment and the configuration file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from acebase_ipc.errors import ConfigError
from acebase_ipc.server import settings
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.config_file import read_config_file
from acebase_ipc.server.options import BY_NAME, OPTIONS, Kind
from acebase_ipc.server.settings import Settings, find_sources

EXAMPLE = Path(__file__).parents[2] / "contrib" / "acebase-ipc.toml"


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of memory and of open files are the machine's."""
    monkeypatch.setattr(settings, "lowered_defaults", dict)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "acebase-ipc.toml"


def read(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Settings:
    """What is read from a file, the environment and the values of a command line."""
    if file is not None:
        arguments["config"] = str(file)
    return find_sources(arguments, environment or {}).read()


def refusal(file: Path, text: str) -> str:
    """What is said about a configuration file with this *text*, without its path."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    return str(caught.value).removeprefix(f"{file}").lstrip(", ")


def example_of(name: str) -> Any:
    return tomllib.loads(f"value = {BY_NAME[name].example}")["value"]


def needed_by(name: str) -> list[str]:
    """The options without which an option cannot be given."""
    if name == "admin_token_file":
        return ["admin"]
    needed = ["cluster", "cluster_address", "cluster_secret_file"]
    is_of_cluster = name.startswith("cluster") and name != "cluster_lease"
    return [each for each in needed if each != name] if is_of_cluster else []


# The file


def test_a_file_with_values_of_every_type(file: Path, tmp_path: Path) -> None:
    file.write_text("""\
port = ["9163", "unix:relay.sock"]
token_file = "token.txt"
no_introductions = true
dialect = "acebase"
log_level = "warn"
max_payload = 1000
max_memory = "512MiB"
session_timeout = 7.5
max_connections = 10
""")
    found = read(file)

    config = found.config
    assert config.endpoints == ("9163", f"unix:address={tmp_path}/relay.sock")
    assert config.token_file == f"{tmp_path}/token.txt", "relative to the file"
    assert not config.introductions
    assert (config.limits.max_payload, config.limits.max_memory) == (1000, 512 * 2**20)
    assert (config.limits.session_timeout, config.limits.max_connections) == (7.5, 10)
    assert (found.log_level, found.log_format) == ("warn", None)


@pytest.mark.parametrize("name", [each.name for each in OPTIONS])
def test_every_option_can_stand_in_a_file(file: Path, name: str) -> None:
    lines = [f"{each} = {BY_NAME[each].example}\n" for each in (*needed_by(name), name)]
    file.write_text("".join(lines))

    assert name in read(file).values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_paylod = 1", "line 1: 'max_paylod' is no option: write max_payload"),
        ("max-payload = 1", "line 1: 'max-payload' is no option: write max_payload"),
        ("nonsense = 1", "line 1: 'nonsense' is no option"),
        ("\n# a\n[limits]\nmax_payload = 1", "line 3: 'limits' is no option"),
        ('config = "a"', "line 1: 'config' is no option"),
        (
            'token = """\nmax_payload = 1"""\nmax_payload = true',
            "line 3: max_payload: write a size",
        ),
        ('port = [\n  "9163",\n  7\n]', "line 1: port: write an array of strings: port = ["),
        ('log_level = "warn"\nport = "9163"', "line 2: port: write an array of strings"),
        ('port = ["tcp:http"]', "line 1: port: cannot listen on 'tcp:http': the port is not"),
        ('fence = "15"', "line 1: fence: write a number of seconds such as 15, without quot"),
        ("fence = true", "line 1: fence: write a number of seconds"),
        ("max_connections = 1.5", "line 1: max_connections: write a whole number"),
        ('max_memory = "1GB"', "line 1: max_memory: '1GB' is not a size"),
        ("max_memory = 1", "line 1: max_memory: max_memory must be from 1,048,576"),
        ("no_introductions = 1", "line 1: no_introductions: write true or false"),
        ("token = 1", 'line 1: token: write text in quotation marks: token = "change me"'),
        ('token = ""', "line 1: token: the token must not be empty"),
        ('log_level = "all"', "line 1: log_level: must be debug, info, warn or error, not 'all'"),
        ('allow_origin = ["example.org"]', "line 1: allow_origin: allow_origins (--allow-origin)"),
        ('token_file = "a\\u0000b"', "line 1: token_file: no path has a null character"),
        ("database = []", "line 1: database: at least one value is needed, such as ["),
        ("port = []", "line 1: port: at least one value is needed, such as ["),
        ("# a\u2028b\x85c\nnonsense = 1", "line 2: 'nonsense' is no option"),
        ("fence = 0x" + "F" * 5000, "line 1: fence: the number is too long"),
        ("max_memory = 0x" + "F" * 5000, "line 1: max_memory: the number is too long"),
        ("max_databases = 0x" + "F" * 20, "line 1: max_databases: the number is too long"),
        ("fence = " + "1" * 5000, ": a number is too long, or arrays are too deep"),
        ("fence = " + "[" * 5000, ": a number is too long, or arrays are too deep"),
        ("token = ", ": Invalid value (at line 1"),
        ("fence = 1\nfence = 2", ": Cannot overwrite a value (at line 2"),
        ('token = "a"\ntoken_file = "b"', "give either token"),
    ],
)
def test_what_a_file_must_not_have(file: Path, text: str, says: str) -> None:
    assert refusal(file, text).startswith(says)


def test_no_value_that_may_be_a_secret_is_told(file: Path) -> None:
    assert "hush" not in refusal(file, 'token = ["hush"]')
    assert "hush" not in refusal(file, 'port = ["pfx:x:path=a:passphrase=hush"]')


def test_a_file_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*: No such file"):
        read(file)
    file.write_bytes(b"token = '\xff'")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read(file)


def test_a_file_of_windows(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbffence = 1\r\nhttp_idle = 2\r\n")

    assert read(file).config.limits.fence == 1


@pytest.mark.parametrize(
    ("text", "mode", "is_told"),
    [
        ('token = "a"', 0o644, True),
        ('port = ["pfx:1:path=a:passphrase=b"]', 0o604, True),
        ('token = "a"', 0o640, False),
        ('port = ["pfx:1:path=a:passphraseFile=b"]', 0o644, False),
        ("fence = 1", 0o644, False),
    ],
)
def test_a_file_with_a_secret_that_everybody_can_read_is_told(
    file: Path, text: str, mode: int, is_told: bool
) -> None:
    file.write_text(text)
    file.chmod(mode)

    assert read(file).exposed_file == (str(file) if is_told else None)


# The example


def test_the_example_has_every_option_as_a_comment(file: Path) -> None:
    text = EXAMPLE.read_text()
    assert tomllib.loads(text) == {}
    examples = re.findall(r"^#(\w+ = .*)$", text, re.MULTILINE)

    for setting, option in zip(examples, OPTIONS, strict=True):
        file.write_text(f"{setting}\n")
        assert list(read_config_file(str(file))) == [option.name]


# The environment


@pytest.mark.parametrize("name", [each.name for each in OPTIONS])
def test_every_option_can_be_a_variable(name: str) -> None:
    value = example_of(name)
    text = value[0] if isinstance(value, list) else str(value)
    environment = {f"ACEBASE_IPC_{name.upper()}": text}
    for each in needed_by(name):
        needed = example_of(each)
        one = needed[0] if isinstance(needed, list) else str(needed)
        environment[f"ACEBASE_IPC_{each.upper()}"] = one

    given = read(environment=environment).values[name]

    if BY_NAME[name].kind is Kind.FLAG:
        assert given is True
    elif isinstance(value, list):
        assert given == tuple(value)
    elif BY_NAME[name].kind is not Kind.SIZE:
        assert given == value


def test_several_values_are_separated_by_white_space() -> None:
    config = read(
        environment={
            "ACEBASE_IPC_PORT": "9163\n 'unix:/run/my relay.sock'  pfx:1:path=/a\\:b ",
            "ACEBASE_IPC_ALLOW_HOST": "a b",
        }
    ).config

    assert config.endpoints == ("9163", "unix:/run/my relay.sock", "pfx:1:path=/a\\:b")
    assert config.allow_hosts == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "ACEBASE_IPC_FENCE",
            "15s",
            "ACEBASE_IPC_FENCE: '15s' is not a number of seconds: write 15",
        ),
        ("ACEBASE_IPC_NO_INTRODUCTIONS", "", "ACEBASE_IPC_NO_INTRODUCTIONS: write true or false"),
        ("ACEBASE_IPC_DATABASE", " ", "ACEBASE_IPC_DATABASE: at least one value is needed"),
        ("ACEBASE_IPC_PORT", "", "ACEBASE_IPC_PORT: at least one value is needed"),
        ("ACEBASE_IPC_PORT", "'9163", "ACEBASE_IPC_PORT: a quotation mark is not closed"),
        (
            "ACEBASE_IPC_TOKENFILE",
            "a",
            "the variable ACEBASE_IPC_TOKENFILE is no option: write ACEBASE_IPC_TOKEN_FILE",
        ),
    ],
)
def test_a_variable_that_cannot_be_used(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(environment={name: text})
    assert str(caught.value).startswith(says)


def test_an_empty_variable_turns_off_what_the_file_allows(file: Path) -> None:
    file.write_text('allow_host = ["relay"]\nallow_origin = ["*"]\n')
    empty = {"ACEBASE_IPC_ALLOW_HOST": "", "ACEBASE_IPC_ALLOW_ORIGIN": ""}

    config = read(file, empty).config
    assert (config.allow_hosts, config.allow_origins) == ((), ())


def test_variables_of_others_are_ignored() -> None:
    """Kubernetes makes these for a service with the name acebase-ipc; examples have others."""
    environment = {
        "ACEBASE_IPC_PORT": "tcp://10.96.0.12:9163",
        "ACEBASE_IPC_PORT_9163_TCP_ADDR": "10.96.0.12",
        "ACEBASE_IPC_SERVICE_HOST": "10.96.0.12",
        "ACEBASE_IPC_ADMIN_PORT": "tcp://10.96.0.13:9164",
        "ACEBASE_IPC_ADMIN_TOKEN": "of the command",
        "ACEBASE_IPC_PURE": "1",
        "ACEBASE_IPC_URL": "ws://127.0.0.1:9163",
    }

    assert read(environment=environment).config == read().config


@pytest.mark.parametrize("text", ["true", "YES", "on", "1"])
def test_a_flag_can_be_turned_off_again(file: Path, text: str) -> None:
    file.write_text("admin_bodies = true")

    assert not read(file, {"ACEBASE_IPC_ADMIN_BODIES": "no"}).config.admin_bodies
    assert read(None, {"ACEBASE_IPC_ADMIN_BODIES": text}).config.admin_bodies


# What the system lowers


def test_a_lowered_default_is_no_given_value(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = {"max_memory": 5 * 2**20, "max_connections": 7}
    monkeypatch.setattr(settings, "lowered_defaults", lambda: lowered)
    found = read(max_connections=9)

    assert found.lowered == {"max_memory": 5 * 2**20}
    assert found.config.limits.max_memory == 5 * 2**20
    assert found.config.limits.max_connections == 9


# Which one is stronger


def test_the_command_line_is_stronger_than_the_environment_and_that_than_the_file(
    file: Path,
) -> None:
    file.write_text('fence = 1\nhttp_idle = 1\nmessage_ttl = 1\nport = ["1"]\nallow_host = ["a"]')
    environment = {"ACEBASE_IPC_FENCE": "2", "ACEBASE_IPC_HTTP_IDLE": "2", "ACEBASE_IPC_PORT": "2"}
    config = read(file, environment, fence=3.0, port=("3",)).config

    limits = config.limits
    assert (limits.fence, limits.http_idle, limits.message_ttl) == (3, 2, 1)
    assert config.endpoints == ("3",), "they are not merged"
    assert config.allow_hosts == ("a",)


def test_a_token_is_stronger_than_the_token_file_of_a_weaker_place(file: Path) -> None:
    file.write_text('token_file = "a"')
    config = read(file, {"ACEBASE_IPC_TOKEN": "secret"}).config
    assert (config.token, config.token_file) == ("secret", None)

    file.write_text('token = "secret"')
    config = read(file, {"ACEBASE_IPC_TOKEN_FILE": "/a"}).config
    assert (config.token, config.token_file) == (None, "/a")


def test_the_command_line_names_another_file_than_the_environment(file: Path) -> None:
    file.write_text("fence = 1")
    environment = {"ACEBASE_IPC_CONFIG": "missing"}

    assert read(file, environment).config.limits.fence == 1
    with pytest.raises(ConfigError, match="missing"):
        read(environment=environment)


def test_only_the_file_is_read_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"ACEBASE_IPC_TOKEN_FILE": "token.txt"}
    sources = find_sources({"config": file.name, "port": ("1",)}, environment)
    environment.clear()
    monkeypatch.chdir("/")
    file.write_text("fence = 5")

    expected = AceBaseIPCServerConfig(endpoints=("1",), token_file=f"{tmp_path}/token.txt")
    config = sources.read().config
    assert config.limits.fence == 5
    assert (config.endpoints, config.token_file) == (expected.endpoints, expected.token_file)
