"""How thoroughly the property tests search, and which way frames take."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from acebase_ipc.websocket import _autobahn

# A loaded machine is slow, which is no defect.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.register_profile("thorough", max_examples=25_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))


@pytest.fixture(params=[True, False], ids=["private", "public"])
def use_private(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test twice: the short way, and as where Autobahn's internals are not known."""
    monkeypatch.setattr(_autobahn, "PARSER_IS_KNOWN", request.param)
    monkeypatch.setattr(_autobahn, "TRANSPORT_IS_KNOWN", request.param)
    return bool(request.param)
