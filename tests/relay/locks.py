"""Requests about locks and their answers, byte for byte as published clients write them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from tests.relay.core import MASTER

_IDS = itertools.count()


def worker_id(number: int) -> str:
    """The id of a published client."""
    return f"{number:024}"


def new_id() -> str:
    """The id of a request."""
    return f"r{next(_IDS):023}"


def _envelope(**members: Any) -> str:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False)


def to_master(worker: str, kind: str, data: Any, request_id: str) -> str:
    """A request of *worker*, with its address."""
    if kind == "request":
        body = _envelope(type=kind, **{"from": worker}, to=MASTER, id=request_id, data=data)
    else:
        body = _envelope(type=kind, id=request_id, **{"from": worker}, to=MASTER, data=data)
    return f"to:{MASTER};{body}"


def lock(
    worker: str, request_id: str, tid: str = "t1", write: bool = True, path: str = "a/b"
) -> str:
    """A request for a lock."""
    data = {"path": path, "tid": tid, "write": write, "comment": "transactNode"}
    return to_master(worker, "lock-request", data, request_id)


def unlock(worker: str, request_id: str, lock_id: int) -> str:
    """A request to release a lock."""
    return to_master(worker, "unlock-request", {"id": lock_id}, request_id)


def move(worker: str, request_id: str, lock_id: int) -> str:
    """A request to move a lock to the parent node."""
    return to_master(worker, "move-lock-request", {"id": lock_id, "move_to": "parent"}, request_id)


def answer(request: str, data: Any = None, reason: str | None = None) -> str:
    """The master's answer to an envelope that it has received, with its address."""
    asked = json.loads(request)
    kind = {
        "lock-request": "lock-result",
        "move-lock-request": "lock-result",
        "unlock-request": "unlock-result",
    }.get(asked["type"], "result")
    outcome = {"ok": True, "data": data} if reason is None else {"ok": False, "reason": reason}
    ends = {"from": MASTER, "to": asked["from"]}
    if kind == "result":
        body = _envelope(type=kind, id=asked["id"], ok=outcome.pop("ok"), **ends, **outcome)
    else:
        body = _envelope(type=kind, id=asked["id"], **ends, **outcome)
    return f"to:{asked['from']};{body}"


def grant(request: str, lock_id: int, **changes: Any) -> str:
    """The master's answer that grants a lock."""
    data = json.loads(request)["data"]
    details = {"path": "a/b", "tid": "t1", "write": True, "comment": "transactNode", **data}
    details.update(id=lock_id, expires=1795756965599, **changes)
    members = ("id", "path", "tid", "write", "expires", "comment")
    return answer(request, {each: details[each] for each in members})


def released(request: str) -> str:
    """The master's answer that a lock is released."""
    return answer(request, {"id": json.loads(request)["data"]["id"]})


def body_of(message: str) -> str:
    """A message without its address."""
    return message.partition(";")[2]
