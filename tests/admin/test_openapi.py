"""The OpenAPI document: schemathesis checks the API against it, in memory.

Each operation is called with values that the document allows, and with others. Every answer has to
be one that the document describes, with a body of its schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from urllib3 import HTTPResponse

import acebase_ipc.admin
from acebase_ipc.testing import DATABASE, chunk, parse_responses
from tests.admin.relay import HOST, AdminRelay

DOCUMENT: Any = json.loads(files(acebase_ipc.admin).joinpath("openapi.json").read_text("utf-8"))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS: list[Any] = [each.ok() for each in SCHEMA.get_all_operations()]  # type: ignore[union-attr]


class MemoryAdapter(HTTPAdapter):
    """Lets requests go to the admin endpoint of a relay in memory."""

    def __init__(self, relay: AdminRelay) -> None:
        super().__init__()
        self._relay = relay

    def send(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> requests.Response:
        url = urlsplit(str(request.url))
        target = f"{url.path}?{url.query}" if url.query else url.path
        headers: dict[str, Any] = {"Host": HOST, **request.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        content: Any = request.body or b""
        with self._relay.at_admin():
            connection = self._relay.connect()
        connection.send(f"{request.method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        connection.send(content.encode() if isinstance(content, str) else content)
        data = connection.take()
        if b"text/event-stream" in data.partition(b"\r\n\r\n")[0]:
            data += chunk(b"")  # as if the stream had an end
        (answer,) = parse_responses(data)
        connection.reset()
        raw = HTTPResponse(
            BytesIO(answer.body), answer.headers, answer.status, preload_content=False
        )
        return self.build_response(request, raw)


def furnish(relay: AdminRelay) -> None:
    """Let there be something of everything, a suspended session, too."""
    relay.furnish().connection.reset()
    relay.pass_time(2)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Asks a relay that has a bit of everything."""
    with AdminRelay() as relay, requests.Session() as session:
        furnish(relay)
        session.mount("http://", MemoryAdapter(relay))
        yield session


def test_the_document_describes_every_path() -> None:
    assert len(OPERATIONS) == 14
    assert DOCUMENT["openapi"].startswith("3.1")


def test_the_document_is_served(session: requests.Session) -> None:
    assert session.get(f"http://{HOST}/api/v1/openapi.json").json() == DOCUMENT


CASES = [
    *((each, GenerationMode.POSITIVE) for each in OPERATIONS),
    *((each, GenerationMode.NEGATIVE) for each in OPERATIONS if each.query or each.body),
]
"""Each operation, and whether it is called with what the document allows: text in a path always
is, and without values there is nothing to be wrong."""


@pytest.mark.parametrize(
    ("operation", "mode"), CASES, ids=[f"{each.label}-{mode.value}" for each, mode in CASES]
)
def test_the_api_is_as_the_document_says(
    operation: Any, mode: GenerationMode, session: requests.Session
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(base_url=f"http://{HOST}", session=session)

    check()


@pytest.mark.parametrize(
    ("method", "path", "describes"),
    [
        ("GET", f"databases/{DATABASE}", "/api/v1/databases/{name}"),
        (
            "POST",
            f"databases/{DATABASE}/peers/alice/kick",
            "/api/v1/databases/{name}/peers/{id}/kick",
        ),
    ],
)
def test_what_is_found_is_as_the_document_says(
    method: str, path: str, describes: str, session: requests.Session
) -> None:
    """Names that are made up by chance find nothing."""
    response = session.request(
        method, f"http://{HOST}/api/v1/{path}", headers={"X-AceBase-IPC": "1"}
    )
    assert response.status_code == 200
    SCHEMA[describes][method].validate_response(response)
