"""The floors of the architecture: what each package may import.

Floor 0 is pure, floor 1 adapts it to Twisted and Autobahn, floor 2 shows and composes. Imports
point down only; packages of floor 1 do not know each other, with two exceptions that
are named in :data:`MAY_IMPORT`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import acebase_ipc

PACKAGE = Path(acebase_ipc.__file__).parent
PLUGINS = PACKAGE.parent / "twisted" / "plugins"

# Every module by its name below acebase_ipc; a package's __init__ by the package's name.
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}

FLOOR_0 = {"errors", "loopback", "protocol", "relay"}

MAY_IMPORT: dict[str, set[str]] = {
    # Floor 0: pure.
    "errors": set(),
    "loopback": set(),
    "protocol": {"errors"},
    "relay": {"errors", "protocol"},
    # Floor 1: adapters. Every private name of Autobahn and Twisted is in one module, which
    # serves all three; a peer is made of a client.
    "addresses": {"loopback"},
    "proxy_protocol": set(),
    "rotation": {*FLOOR_0},
    "websocket": {"addresses", "rotation", *FLOOR_0},
    "http": {"addresses", "rotation", "websocket._autobahn", *FLOOR_0},
    "client": {"websocket._autobahn", *FLOOR_0},
    "peer": {"client", *FLOOR_0},
    # Floor 2: what shows and controls a server, and composition.
    "admin": {"addresses", "http", "rotation", "websocket", *FLOOR_0},
    "cluster": {
        *("addresses", "http", "proxy_protocol", "rotation", "websocket.upgrade"),
        *FLOOR_0,
    },
    "server": {
        *("addresses", "admin", "cluster", "http", "proxy_protocol", "rotation", "websocket"),
        *FLOOR_0,
    },
    # Floor 3: what people run, and what they test with.
    "tap": {"server", *FLOOR_0},
    "serve": {"server", "tap", *FLOOR_0},
    "cli": {"client", "http.tokens", "serve", "server", "supervise", "tap", *FLOOR_0},
    "supervise": set(),
    "__main__": {"cli", "serve", "supervise"},
    "testing": {"addresses", "rotation", "client", "http", "peer", "server", "websocket", *FLOOR_0},
}
"""What a package or a module beside the packages may import of this package."""

PURE_MODULES = {
    "client.errors",
    "client.outbox",
    "client.url",
    "cluster.handshake",
    "cluster.leases",
    "cluster.placement",
    "cluster.redis_url",
    "cluster.settings",
    "cluster.store",
    "peer.errors",
    "peer.subscriptions",
    "websocket.keepalive",
}
"""Modules above floor 0 that are pure nevertheless: parsers, tables and queues."""

IMPURE = {
    "asyncio",
    "logging",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "threading",
    "time",
}
"""Modules of the standard library that bring a clock, a log or a socket."""


def package_of(module: str) -> str:
    """The package of a module, or the module itself where it is in none."""
    return module.partition(".")[0]


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names that are imported anywhere below *tree*, as ``module.name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{each.name}" for each in node.names)


def ours(tree: ast.AST) -> set[str]:
    """The modules of the package that are imported anywhere below *tree*."""
    found = set()
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] == "acebase_ipc":
            candidates = [".".join(parts[1:end]) for end in (4, 3, 2)]
            found |= {next(each for each in candidates if each in MODULES)} if parts[1:] else set()
    return found


def foreign(tree: ast.AST) -> set[str]:
    """The packages of others that are imported anywhere below *tree*."""
    return {name.partition(".")[0] for name in imports(tree)} - {"acebase_ipc", "__future__"}


PURE = {each for each in MODULES if package_of(each) in FLOOR_0} | PURE_MODULES


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def loaded_by(*modules: str) -> set[str]:
    """What importing *modules* adds to ``sys.modules`` of a fresh process.

    What is there before counts for nobody: older zope.interface loads ``zope`` by a .pth file.
    """
    code = "import sys; before = set(sys.modules)\n"
    code += f"import {', '.join(modules)}; print(*sys.modules.keys() - before)"
    return set(run(code).split())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_package_imports_only_what_its_rule_allows(module: str) -> None:
    package = package_of(module)
    allowed = MAY_IMPORT[package]
    for imported in ours(parse(MODULES[module])):
        if package_of(imported) != package:
            assert imported in allowed or package_of(imported) in allowed, imported


def test_every_package_has_a_rule() -> None:
    present = {package_of(each) for each in MODULES}
    assert present <= MAY_IMPORT.keys()


def test_no_rule_lets_two_packages_import_each_other() -> None:
    graph = {
        package: {package_of(each) for each in allowed} for package, allowed in MAY_IMPORT.items()
    }
    assert set(TopologicalSorter(graph).static_order()) == set(MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(PURE))
def test_a_pure_module_uses_the_standard_library_without_clock_log_and_sockets(
    module: str,
) -> None:
    assert foreign(parse(MODULES[module])) <= sys.stdlib_module_names - IMPURE
    assert ours(parse(MODULES[module])) <= PURE


def test_the_pure_modules_load_neither_twisted_nor_autobahn() -> None:
    loaded = loaded_by(*(f"acebase_ipc.{each}" for each in sorted(PURE)))
    assert {each.partition(".")[0] for each in loaded}.isdisjoint(
        {"autobahn", "logging", "OpenSSL", "twisted", "txaio", "zope"}
    )


def test_no_modules_import_each_other() -> None:
    graph = {module: ours(parse(path)) - {module} for module, path in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when a module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_the_reactor_at_its_top(module: str) -> None:
    for node in at_import(parse(MODULES[module])):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = list(imports(node))
            assert not {"twisted.internet.reactor", "twisted.internet.default"} & set(names)
            assert not [name for name in names if name.endswith(".reactor")]


def test_the_package_loads_its_names_when_they_are_used() -> None:
    loaded = loaded_by("acebase_ipc")
    assert {each for each in loaded if each.startswith("acebase_ipc")} == {"acebase_ipc"}
    assert "twisted" not in loaded


def test_the_endpoint_installs_no_reactor_and_loads_what_is_slow_only_when_it_is_used() -> None:
    assert loaded_by("acebase_ipc.server.pfx").isdisjoint(
        {"autobahn", "cryptography", "OpenSSL", "twisted.internet.reactor", "twisted.internet.ssl"}
    )


def test_a_server_does_not_load_what_only_clients_need() -> None:
    loaded = loaded_by("acebase_ipc.server.service", "acebase_ipc.tap")
    assert not [each for each in loaded if each.partition(".")[0] == "treq"]


def test_a_client_can_be_imported_before_a_reactor_is_chosen() -> None:
    assert "twisted.internet.reactor" not in loaded_by("acebase_ipc.client.service")


def test_the_plugins_load_almost_nothing() -> None:
    plugins = [path.stem for path in PLUGINS.glob("acebase_ipc_*.py")]
    assert len(plugins) == 2
    assert loaded_by(*(f"twisted.plugins.{each}" for each in plugins)).isdisjoint(
        {"autobahn", "acebase_ipc.tap", "acebase_ipc.server.service", "twisted.internet.reactor"}
    )


def test_the_public_names_are_there() -> None:
    assert sorted(acebase_ipc.__all__) == dir(acebase_ipc)
    for name in acebase_ipc.__all__:
        assert getattr(acebase_ipc, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = acebase_ipc.nonsense


def test_every_public_class_comes_from_the_module_that_defines_it() -> None:
    """Where type checkers look for it, and where it is when it is used, is the same place."""
    checked = {
        name.rpartition(".")[2]: name.rpartition(".")[0]
        for name in imports(parse(PACKAGE / "__init__.py"))
        if name.startswith("acebase_ipc.")
    }
    assert checked == {name: getattr(acebase_ipc, name).__module__ for name in acebase_ipc.__all__}
