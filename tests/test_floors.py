"""The floors of the architecture: what a module may import.

Floor 0 is pure, floor 1 adapts it to Twisted and Autobahn, floor 2 composes.
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

MODULES = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}

CORE = {
    "backlog",
    "client_errors",
    "dialect",
    "envelopes",
    "errors",
    "framing",
    "handshake",
    "incoming",
    "introductions",
    "keepalive",
    "limits",
    "mailbox",
    "observer",
    "outbox",
    "peer_errors",
    "protocol",
    "recovery",
    "relay",
    "subscriptions",
    "urls",
    "values",
}
ADAPTERS = {"client", "endpoints", "peer", "resources", "site", "tokens", "websocket"}
COMPOSITION = {"config", "service", "tap"}

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
    names = {name.split(".")[1] for name in imports(tree) if name.startswith("acebase_ipc.")}
    return names & set(MODULES)


def foreign(tree: ast.AST) -> set[str]:
    """The packages of others that are imported anywhere below *tree*."""
    return {name.partition(".")[0] for name in imports(tree)} - {"acebase_ipc", "__future__"}


def needed_by(modules: set[str]) -> set[str]:
    """*modules* and all that they import, and so on."""
    needed = modules | {each for module in modules for each in ours(parse(MODULES[module]))}
    return needed if needed == modules else needed_by(needed)


FLOOR_0 = needed_by(CORE)


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def loaded_by(*modules: str) -> set[str]:
    """What is in ``sys.modules`` after *modules* were imported in a fresh process."""
    return set(run(f"import sys, {', '.join(modules)}; print(*sys.modules)").split())


def test_the_core_loads_neither_twisted_nor_autobahn() -> None:
    loaded = loaded_by(*(f"acebase_ipc.{each}" for each in sorted(CORE)))
    assert {each for each in loaded if each.startswith("acebase_ipc.")} == {
        f"acebase_ipc.{each}" for each in FLOOR_0
    }
    assert {each.partition(".")[0] for each in loaded}.isdisjoint(
        {"autobahn", "logging", "OpenSSL", "twisted", "txaio", "zope"}
    )


@pytest.mark.parametrize("module", sorted(FLOOR_0))
def test_floor_0_is_the_standard_library_without_clock_log_and_sockets(module: str) -> None:
    assert foreign(parse(MODULES[module])) <= sys.stdlib_module_names - IMPURE


def test_floor_0_imports_only_floor_0() -> None:
    assert FLOOR_0.isdisjoint(ADAPTERS | COMPOSITION)


def test_floor_1_does_not_import_floor_2() -> None:
    assert needed_by(ADAPTERS).isdisjoint(COMPOSITION)


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module: ours(parse(path)) for module, path in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def test_nothing_imports_the_command_line() -> None:
    assert not [module for module, path in MODULES.items() if "tap" in ours(parse(path))]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when a module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


@pytest.mark.parametrize("path", [*MODULES.values(), PACKAGE / "__init__.py"], ids=lambda p: p.stem)
def test_no_module_imports_the_reactor_at_its_top(path: Path) -> None:
    for node in at_import(parse(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = list(imports(node))
            assert not {"twisted.internet.reactor", "twisted.internet.default"} & set(names)
            assert not [name for name in names if name.endswith(".reactor")]


def test_the_package_loads_its_names_when_they_are_used() -> None:
    loaded = loaded_by("acebase_ipc")
    assert {each for each in loaded if each.startswith("acebase_ipc")} == {"acebase_ipc"}
    assert "twisted" not in loaded


def test_the_endpoint_installs_no_reactor_and_loads_what_is_slow_only_when_it_is_used() -> None:
    assert loaded_by("acebase_ipc.endpoints").isdisjoint(
        {"autobahn", "cryptography", "OpenSSL", "twisted.internet.reactor", "twisted.internet.ssl"}
    )


def test_a_server_does_not_load_what_only_clients_need() -> None:
    loaded = loaded_by("acebase_ipc.service", "acebase_ipc.tap")
    assert not [each for each in loaded if each.partition(".")[0] == "treq"]


def test_a_client_can_be_imported_before_a_reactor_is_chosen() -> None:
    assert "twisted.internet.reactor" not in loaded_by("acebase_ipc.client")


def test_the_plugins_load_almost_nothing() -> None:
    plugins = [path.stem for path in PLUGINS.glob("acebase_ipc_*.py")]
    assert len(plugins) == 2
    assert loaded_by(*(f"twisted.plugins.{each}" for each in plugins)).isdisjoint(
        {"autobahn", "acebase_ipc.tap", "acebase_ipc.service", "twisted.internet.reactor"}
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
        name.rpartition(".")[2]: name.split(".")[1]
        for name in imports(parse(PACKAGE / "__init__.py"))
        if name.startswith("acebase_ipc.")
    }
    assert checked == {
        name: getattr(acebase_ipc, name).__module__.split(".")[1] for name in acebase_ipc.__all__
    }
