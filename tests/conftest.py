"""What is tried with which versions, how thoroughly, and which way frames take."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator, Iterator
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from hypothesis import settings

from acebase_ipc.protocol import frames, messages
from acebase_ipc.protocol.native import IS_NATIVE
from acebase_ipc.testing import MemoryReactor
from acebase_ipc.websocket import _autobahn, fastpath, incoming
from tests.native import NAMES, in_c, in_python

# A loaded machine is slow, which is no defect.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.register_profile("thorough", max_examples=25_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))

# The shell lets its background jobs ignore SIGINT, and they the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_TESTS = Path(__file__).parent
# They run little of the relay, or in other processes.
_UNTRACED = {
    *("acebase", "browser", "integration", "operation", "packaging"),
    *("test_docs.py", "test_docs_names.py", "test_floors.py"),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure no coverage where it is not worth its time: code that is traced takes three times."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            first, *_ = item.path.relative_to(_TESTS).parts
            if first in _UNTRACED:
                item.add_marker(pytest.mark.no_cover)


def pytest_report_header() -> str:
    """Return the versions of what the package requires, and which code is tested."""
    required = [each for each in requires("acebase-ipc") or () if "extra ==" not in each]
    names = [name[0] for each in required if (name := re.match(r"[\w.-]+", each))]
    code = "with the C extension" if IS_NATIVE else "in pure Python"
    return f"{code}, with " + ", ".join(f"{name} {version(name)}" for name in names)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a property run with several parameters: pytest-twisted wraps its test each time."""
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    inner_test = getattr(handle, "inner_test", None)
    try:
        return (yield)
    finally:
        if handle is not None:
            handle.inner_test = inner_test


@pytest.fixture(params=[True, False], ids=["private", "public"])
def use_private(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test twice: the short way, and as where Autobahn's internals are not known."""
    monkeypatch.setattr(_autobahn, "PARSER_IS_KNOWN", request.param)
    monkeypatch.setattr(_autobahn, "TRANSPORT_IS_KNOWN", request.param)
    return bool(request.param)


@pytest.fixture(scope="module", params=["python", "c"])
def code(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the tests of a module twice: with frames processed in Python, and in C."""
    functions = {name: (in_c if request.param == "c" else in_python)(name) for name in NAMES}
    functions["unmask_long"] = (
        functions["unmask"] if request.param == "c" else incoming.unmask_by_autobahn
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (frames, messages, incoming, fastpath, request.module):
            for name in functions.keys() & vars(module).keys():
                patch.setattr(module, name, functions[name])
        yield request.param


@pytest.fixture(autouse=True)
def _close_relays_in_memory() -> Iterator[None]:
    """Leave no descriptors of relays in memory to the next test."""
    yield
    MemoryReactor.close_all()
