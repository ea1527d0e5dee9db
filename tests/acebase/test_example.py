"""The cluster in ``examples/`` works on a relay with and without TLS and token."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from tests.acebase.cluster import Relay, node

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[1] / "examples" / "cluster" / "cluster.js"

SECONDS = 90
"""The example ends by itself after 60 s at most."""


def run_example(
    directory: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the example with *directory* for its temporary files."""
    return subprocess.run(
        [node(), EXAMPLE, *options],
        cwd=directory,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("ACEBASE_IPC_")},
            "NODE_PATH": str(HERE / "node_modules"),
            "TMPDIR": str(directory),
            **environment,
        },
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )


def assert_worked(example: subprocess.CompletedProcess[str], directory: Path) -> None:
    assert example.returncode == 0, example.stdout + example.stderr
    assert example.stderr == ""
    assert "The counter is 20; 20 transactions were made" in example.stdout
    assert "The subscriber received 20 changes and 2 notes." in example.stdout
    assert not list(directory.iterdir())  # its temporary files are removed


def test_the_example_cluster_works(tcp_relay: Relay, tmp_path: Path) -> None:
    example = run_example(tmp_path, "--port", str(tcp_relay.address.port))

    assert_worked(example, tmp_path)


def test_the_example_cluster_works_over_tls_with_a_token(tls_relay: Relay, tmp_path: Path) -> None:
    address = tls_relay.address
    assert address.token is not None

    example = run_example(
        tmp_path,
        "--tls",
        ACEBASE_IPC_PORT=str(address.port),
        ACEBASE_IPC_TOKEN=address.token,
        NODE_EXTRA_CA_CERTS=str(address.certificate),
    )

    assert_worked(example, tmp_path)


def test_the_example_cluster_reports_a_wrong_token(tls_relay: Relay, tmp_path: Path) -> None:
    example = run_example(
        tmp_path,
        *("--tls", "--port", str(tls_relay.address.port), "--token", "wrong"),
        NODE_EXTRA_CA_CERTS=str(tls_relay.address.certificate),
    )

    assert example.returncode == 1
    assert "Is the token right?" in example.stderr


def test_the_example_cluster_reports_that_there_is_no_relay(tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound, so that no other process listens there
        unused.bind(("127.0.0.1", 0))
        example = run_example(tmp_path, "--port", str(unused.getsockname()[1]))

    assert example.returncode == 1
    assert "make run" in example.stderr
    assert not list(tmp_path.iterdir())
