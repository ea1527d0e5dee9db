"""What a relay has to answer: checked against the OpenAPI document of the admin endpoint.

Members that are not in the document are allowed, as are other values than it lists: a later relay
may have more of both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any, Final

Schema = dict[str, Any]

EVENTS: Final = {"event": "Event", "message": "Message", "skipped": "Skipped", "status": "Overview"}
"""The names of the schemas of the stream's events."""

_HIGHEST: Final = 2**63
"""Higher numbers are none that a relay counts."""

_NAMES: Final = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@cache
def _document() -> Any:
    text = files("acebase_ipc.admin").joinpath("openapi.json").read_text("utf-8")
    return json.loads(text)


def answer_schema(method: str, path: str) -> Schema:
    """Return the schema of the answer to a request for a path below ``/api/v1/``."""
    for template, operations in _document()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), f"/api/v1/{path}"):
            response = operations[method.lower()]["responses"]["200"]
            schema: Schema = response["content"]["application/json"]["schema"]
            return schema
    raise LookupError(path)


def event_schema(kind: str) -> Schema:
    """Return the schema of an event of the stream; any object if its *kind* is not known."""
    if kind not in EVENTS:
        return {"type": "object"}
    schema: Schema = _document()["components"]["schemas"][EVENTS[kind]]
    return schema


def difference(value: object, schema: Schema) -> str | None:
    """Return what is wrong with *value*, or ``None`` if it is as *schema* says."""
    return next(_differences(value, schema, ""), None)


def _differences(value: object, schema: Schema, name: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = _document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    types = _types(schema)
    if not any(_is(value, each) for each in types):
        yield f"{name or 'it'} is not {' or '.join(_NAMES[each] for each in types)}"
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for each in schema.get("required", ()):
            if each not in value:
                yield f"{_member(name, each)} is missing"
        for key, member in value.items():
            expected = properties.get(key, others if isinstance(others, dict) else None)
            if expected is not None:
                yield from _differences(member, expected, _member(name, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from islice(_differences(item, schema["items"], f"{name}[{number}]"), 1)


def _types(schema: Schema) -> tuple[str, ...]:
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", (schema.get("const"),))
        return tuple({_type_of(each): None for each in values})
    types = schema["type"]
    return (types,) if isinstance(types, str) else tuple(types)


def _type_of(value: object) -> str:
    return next(each for each in _NAMES if _is(value, each))


def _is(value: object, name: str) -> bool:
    match name:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return _is_number(value) and isinstance(value, int)
    return _is_number(value)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _HIGHEST  # NaN is not


def _member(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
