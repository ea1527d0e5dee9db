"""A client goes on working when Autobahn renames what it does not document."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket import interfaces

from acebase_ipc.client import connection
from acebase_ipc.websocket import _autobahn

ROOT = Path(__file__).parents[2]

DEGRADED = {
    "onCloseFrame": [
        # Without it only the keepalive ends a connection that the relay has closed and kept,
        # and what is sent meanwhile is lost.
        "test_each_code_is_understood_whether_or_not_the_relay_ends_the_connection and False",
        "test_nothing_is_sent_to_a_relay_that_closes",
    ],
    "wasMaxMessagePayloadSizeExceeded": [
        # Without it a message that is too large counts as a protocol error.
        "test_what_must_not_be_ends_the_connection and ClosedAsTooLarge",
    ],
}
"""The private names that a client uses, and the tests that fail without them."""

DOCUMENTED = {
    "connectionLost",
    "connectionMade",
    "dataReceived",
    "factory",
    "prepareMessage",
    "protocol",
    "sendPreparedMessage",
    "setProtocolOptions",
    "transport",
    "onConnecting",
    "log",  # every class of Twisted's and Autobahn's may have one
}
"""Names of Twisted's protocols and factories, and of Autobahn's documentation."""


@pytest.mark.parametrize("name", sorted(DEGRADED))
def test_without_a_private_name_the_rest_works(name: str) -> None:
    degraded = " or ".join(f"({each})" for each in DEGRADED[name])
    command = [sys.executable, "-m", "tests.client.renaming", name, "-q", "-p", "no:cacheprovider"]
    tests = ["tests/client/test_connection.py", "-k", f"not ({degraded}) and not Faults"]
    path = os.pathsep.join([str(Path(_autobahn.__file__).parents[2]), str(ROOT)])
    run = subprocess.run(
        [*command, *tests],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout


def test_a_private_name_is_looked_for_when_the_module_is_imported() -> None:
    assert _autobahn.TELLS_CLOSE_FRAMES
    assert _autobahn.TELLS_MESSAGE_SIZE
    assert _autobahn.missing_names(WebSocketClientProtocol, ["no such name"])


def test_a_client_uses_no_other_private_name() -> None:
    """Whatever it overrides or uses of Autobahn is documented, or in the table above."""
    documented = DOCUMENTED | DEGRADED.keys()
    for each in vars(interfaces).values():
        if inspect.isclass(each):
            documented |= vars(each).keys()
    autobahns = set(dir(WebSocketClientProtocol)) | set(dir(WebSocketClientFactory))
    tree = ast.parse(inspect.getsource(connection))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Call)
        and ast.unparse(node.value) in ("self", "super()")
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    undocumented = (used | defined) & autobahns - documented
    assert {each for each in undocumented if not each.startswith("__")} == set()
