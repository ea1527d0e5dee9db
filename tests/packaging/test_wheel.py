"""Tests that the built wheel, installed in a new environment, adds the relay to twistd.

An editable install also finds plugins that the wheel lacks. So these tests use
the wheel alone, and run in a directory without the project's sources.
"""

import datetime
import ipaddress
import os
import re
import selectors
import signal
import ssl
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator, Mapping
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.processes import find_compiler
from tests.programs import missing

pytestmark = pytest.mark.packaging

PROJECT = Path(__file__).resolve().parents[2]

INSTALL_SECONDS = 300
"""Building and installing download packages, perhaps over a slow connection."""

COMMAND_SECONDS = 60
"""twistd takes about one second to start, and many on a busy machine."""

LISTENING = re.compile(r"listening on wss://\S+:(\d+)")


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables that lead Python to the source tree."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COV_", "COVERAGE_", "PYTEST_", "ACEBASE_IPC_"))
        and name != "VIRTUAL_ENV"
    }


def run(
    *command: str | Path,
    cwd: Path,
    timeout: float = COMMAND_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return what the command wrote; the test fails with it when the command fails.

    :param environment: variables that are added to the clean environment.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it, into a directory."""
    directory = tmp_path_factory.mktemp("dist")
    run(
        sys.executable,
        *("-m", "build", "--outdir", directory, PROJECT),
        cwd=directory,
        timeout=INSTALL_SECONDS,
    )
    return directory


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def twistd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the twistd of an environment with the wheel and its dependencies."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(environment, with_pip=True)
    run(
        environment / "bin" / "python",
        *("-m", "pip", "--disable-pip-version-check", "install", "--quiet", wheel),
        cwd=environment,
        timeout=INSTALL_SECONDS,
    )
    return environment / "bin" / "twistd"


def lines_until(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """Yield the process's lines until it ends; fail when the deadline passes first."""
    assert process.stdout is not None
    unfinished = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                pytest.fail(f"{process.args!r} wrote no more lines in time")
            received = os.read(process.stdout.fileno(), 65536)
            *lines, unfinished = (unfinished + received).split(b"\n")
            yield from (line.decode() for line in lines)
            if not received:
                yield unfinished.decode()
                return


def write_self_signed(path: Path) -> None:
    """Write a key and its certificate for 127.0.0.1 into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    loopback = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def status_of_plain_connect(port: int, authority: Path) -> int:
    """Return the status of a connect request without an upgrade."""
    connection = HTTPSConnection(
        "127.0.0.1",
        port,
        timeout=COMMAND_SECONDS,
        context=ssl.create_default_context(cafile=str(authority)),
    )
    try:
        connection.request("GET", "/db/connect")
        return connection.getresponse().status
    finally:
        connection.close()


def test_wheel_holds_the_package_and_its_plugins_and_nothing_of_twisted(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())

    ours = {
        str(path.relative_to(PROJECT / "src"))
        for path in (PROJECT / "src").rglob("*.py")
        if "egg-info" not in str(path)
    }
    assert {name for name in packed if name.endswith(".py")} == ours
    assert "acebase_ipc/py.typed" in packed
    assert not packed & {"twisted/__init__.py", "twisted/plugins/__init__.py"}


EXTENSION = "acebase_ipc/_speedups.abi3.so"


def test_the_wheel_holds_the_c_extension_for_each_python(wheel: Path) -> None:
    if find_compiler() is None:
        missing("the C extension needs a C compiler")
    assert "-cp311-abi3-" in wheel.name
    packed = zipfile.ZipFile(wheel).namelist()
    assert EXTENSION in packed
    assert not [name for name in packed if name.endswith(".c")]


@pytest.mark.parametrize(
    ("environment", "tag"),
    [({"CC": "/bin/false"}, "-cp311-abi3-"), ({"ACEBASE_IPC_PURE": "1"}, "-py3-none-any")],
    ids=["without a compiler", "on demand"],
)
def test_the_source_distribution_is_built_in_pure_python(
    distributions: Path, tmp_path: Path, environment: dict[str, str], tag: str
) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"),
        *("--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, archive),
        cwd=tmp_path,
        timeout=INSTALL_SECONDS,
        environment=environment,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert tag in wheel.name
    with zipfile.ZipFile(wheel) as packed:
        assert "acebase_ipc/protocol/native.py" in packed.namelist()
        assert EXTENSION not in packed.namelist()


def test_source_distribution_holds_what_its_own_tests_need(distributions: Path) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}

    assert {
        ".ci/run",
        "CHANGELOG.rst",
        "Containerfile",
        "Dockerfile",
        "LICENSE",
        "Makefile",
        "newsfragments/README.rst",
        "pyproject.toml",
        "setup.cfg",
        "setup.py",
        "src/acebase_ipc/_speedups.c",
        "src/twisted/plugins/acebase_ipc_service.py",
        "tests/packaging/test_wheel.py",
    } <= names
    assert not [
        name
        for name in names
        if "node_modules" in name or "__pycache__" in name or name.endswith(".so")
    ]


def test_source_distribution_holds_all_files_that_are_under_version_control() -> None:
    if not PROJECT.joinpath(".git").exists():
        pytest.skip("this is no clone of the repository")
    run(
        *(sys.executable, "-m", "check_manifest", "--no-build-isolation"),
        cwd=PROJECT,
        timeout=INSTALL_SECONDS,
    )


def test_a_package_index_accepts_the_distributions(distributions: Path) -> None:
    checked = run(
        sys.executable,
        *("-m", "twine", "check", "--strict", *map(str, distributions.iterdir())),
        cwd=distributions,
    )

    assert checked.count("PASSED") == 2


def test_twistd_lists_the_plugin(twistd: Path, tmp_path: Path) -> None:
    assert re.search(r"^ +acebase-ipc ", run(twistd, "--help", cwd=tmp_path), re.MULTILINE)


def test_the_plugin_explains_its_options(twistd: Path, tmp_path: Path) -> None:
    assert "--port" in run(twistd, "-n", "acebase-ipc", "--help", cwd=tmp_path)


def test_serves_tls_and_ends_cleanly_on_sigterm(twistd: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    write_self_signed(key)
    deadline = time.monotonic() + COMMAND_SECONDS
    log = []
    statuses = []
    with subprocess.Popen(
        [twistd, "-n", "acebase-ipc", "--port", "ssl:0:privateKey=key.pem"],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            for line in lines_until(process, deadline):
                log.append(line)
                if listening := LISTENING.search(line):
                    # An answer shows that the reactor runs: only then is the signal handled.
                    statuses.append(status_of_plain_connect(int(listening[1]), key))
                    process.send_signal(signal.SIGTERM)
            exit_status = process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            process.kill()

    text = "\n".join(log)
    assert statuses == [426], text
    assert "stopped" in text
    assert "Traceback" not in text
    # After its shutdown, twistd ends itself with the signal it was sent.
    assert exit_status == -signal.SIGTERM, text
