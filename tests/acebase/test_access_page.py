"""The commands of docs/access.rst, with the example cluster that its last command runs."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.acebase.cluster import HERE
from tests.acebase.typed import application, assert_works, commands, install, run, served
from tests.documents import DOCS, PROJECT

PAGE = DOCS / "access.rst"


def test_the_token(tmp_path: Path) -> None:
    install(tmp_path)
    create, serve = commands(PAGE, "Tokens")
    run(create, tmp_path)
    file = tmp_path / "token.txt"
    assert file.stat().st_mode & 0o077 == 0
    with served(f"{serve} --port tcp:0:interface=127.0.0.1", tmp_path) as port:
        assert_works(tmp_path, application(port, token=file.read_text().strip()))


def test_tls(tmp_path: Path) -> None:
    install(tmp_path)
    tmp_path.joinpath("token.txt").write_text("secret")
    umask, certificate, pem, passphrase, bundle, pfx, cluster = commands(PAGE, "TLS")
    run(f"{umask}; {certificate}; {passphrase}; {bundle}", tmp_path)
    assert not [each for each in tmp_path.glob("*.pem") if each.stat().st_mode & 0o077]
    example = PROJECT / "examples" / "cluster" / "cluster.js"
    cluster = cluster.replace("examples/cluster/cluster.js", shlex.quote(str(example)))
    for serve in (pem, pfx):
        assert ":9163:" in serve
        with served(serve.replace(":9163:", ":0:interface=127.0.0.1:"), tmp_path) as port:
            modules = {"NODE_PATH": str(HERE / "node_modules"), "ACEBASE_IPC_PORT": str(port)}
            assert "20 transactions were made" in run(cluster, tmp_path, **modules)
