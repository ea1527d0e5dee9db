"""Requests to AceBase's lock master and their answers: reads and composes them.

Measured with the npm package acebase 1.29.13; the ids of requests have 24 characters::

    {"type":"lock-request","id":"…","from":"w1","to":"[master]",
     "data":{"path":"val/c","tid":"…","write":true,"comment":"transactNode"}}
    {"type":"lock-result","id":"…","from":"[master]","to":"w1","ok":true,
     "data":{"id":7,"path":"val/c","tid":"…","write":true,"expires":1795756965599,"comment":"…"}}
    {"type":"unlock-request","id":"…","from":"w1","to":"[master]","data":{"id":7}}
    {"type":"unlock-result","id":"…","from":"[master]","to":"w1","ok":true,"data":{"id":7}}
    {"type":"move-lock-request","id":"…","from":"w1","to":"[master]",
     "data":{"id":13,"move_to":"parent"}}               answered by a lock-result
    {"type":"request","from":"w1","to":"[master]","id":"…","data":{…}}
    {"type":"result","id":"…","ok":true,"from":"[master]","to":"w1","data":{…}}
    {"type":"…","id":"…","from":"[master]","to":"w1","ok":false,"reason":"…"}    a failure

Types and ids are found without parsing JSON, because every message to and from a master is
read here. Text inside a JSON string is not mistaken for them: its quotes are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from struct import Struct
from typing import Any, Final, TypeVar

from acebase_ipc.protocol.dialect import json_string
from acebase_ipc.protocol.messages import MASTER


class RequestKind(Enum):
    """What a worker asks of the master; the value is the envelope's type."""

    LOCK = "lock-request"
    UNLOCK = "unlock-request"
    MOVE = "move-lock-request"
    OTHER = "request"


# As names of the module, because access to a member of an Enum is slow.
LOCK: Final = RequestKind.LOCK
UNLOCK: Final = RequestKind.UNLOCK
MOVE: Final = RequestKind.MOVE
OTHER: Final = RequestKind.OTHER

_LONGEST_TYPE: Final = len(b'{"type":"move-lock-request"')
_ID: Final = b'"id":"'
_ID_LENGTH: Final = 24
_HEAD: Final = 2048
"""A request's id is within the first bytes of its envelope, after both peers' ids."""

MAX_REQUEST_ID: Final = 128
"""Bytes of a request's id; published clients' ids have 24."""

_REQUESTS: Final = {each.value.encode(): each for each in RequestKind}
_ANSWERS: Final = {b"lock-result": True, b"unlock-result": False, b"result": False}
"""The types of answers, and whether they may grant a lock."""

_LOCK_ID = re.compile(rb'"data":\{"id":\s*(\d{1,16})(?=[\s,}])')
_STRING: Final = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
"""A string of JSON, escapes and all."""

_WISH = re.compile(
    rb'("path":%b,"tid":"([^"\\]+)","write":(true|false),)("comment":%b\}\})' % (_STRING, _STRING)
)
"""The data of a lock-request, from the first member on. A tid with an escape is not usual."""

_GRANT = re.compile(
    rb'\d{1,16},"path":%b,"tid":"([^"\\]+)","write":(true|false),"expires":(\d+),"' % _STRING
)
"""The data of a lock-result, from the lock's id on."""

_MOVED = re.compile(rb'"data":\{"id":\d{1,16},"path":"([^"\\]*)"(,.*\})\}\Z', re.DOTALL)
"""The path in a usual lock-result, if it is written without escapes, and what follows."""

_TO_PARENT = b'"move_to":"parent"'
_FAILED = b'"ok":false'

_OTHER_REQUEST = b'{"type":"request"'
_LOCK_REQUEST = b'{"type":"lock-request"'
_TID = re.compile(rb'"tid":"[^"]*"')
_FREE_SPACE = b'"data":{"type":"fst.release"'

_Kind = TypeVar("_Kind")
Unpack = Callable[[bytes], tuple[bytes, bytes, bytes]]
Layout = tuple[_Kind, Unpack, bytes, bytes, int]
"""How an envelope of a published client is laid out: its kind, a function that splits it, the
parts before and after the request's id, and the length of all three."""

FIRST: Final = len(b'{"type":"')
"""The place of a byte that is different for each type of request, and of answer."""


def request_layouts(worker: str) -> dict[int, Layout[RequestKind]]:
    """Return the layouts of the usual requests of *worker* by the byte at :data:`FIRST`."""
    ends = b'","from":%b,"to":"%b"' % (json_string(worker), MASTER)
    start = b'{"type":"request","from":%b,"to":"%b","id":"' % (json_string(worker), MASTER)
    return {
        ord("l"): _layout(LOCK, b'{"type":"lock-request","id":"', ends + b',"data":{'),
        ord("u"): _layout(UNLOCK, b'{"type":"unlock-request","id":"', ends + _RELEASES),
        ord("m"): _layout(MOVE, b'{"type":"move-lock-request","id":"', ends + _RELEASES),
        ord("r"): _layout(OTHER, start, b'","data":{'),
    }


def answer_layouts(worker: str) -> dict[int, Layout[bool]]:
    """Return the layouts of answers to *worker*, and whether such an answer grants a lock."""
    ends = b'","from":"%b","to":%b' % (MASTER, json_string(worker))
    return {
        ord("l"): _layout(True, b'{"type":"lock-result","id":"', ends + _GRANTS),
        ord("u"): _layout(False, b'{"type":"unlock-result","id":"', ends + b',"ok":'),
        ord("r"): _layout(False, b'{"type":"result","id":"', b'","ok":'),
    }


_RELEASES: Final = b',"data":{"id":'
_GRANTS: Final = b',"ok":true,"data":{"id":'


def _layout(kind: _Kind, start: bytes, end: bytes) -> Layout[_Kind]:
    return kind, _unpack(len(start), len(end)), start, end, len(start) + _ID_LENGTH + len(end)


@lru_cache(256)
def _unpack(start: int, end: int) -> Unpack:
    return Struct(f"{start}s{_ID_LENGTH}s{end}s").unpack_from


@dataclass(frozen=True, slots=True)
class LockDetails:
    """What a lock is for.

    :ivar path: the node that is locked; locks of all paths exclude each other nevertheless.
    :ivar tid: the transaction; its requests always pass its own locks.
    :ivar write: whether it excludes all locks of other transactions, not only writing ones.
    :ivar comment: what AceBase calls the operation.
    """

    path: str
    tid: str
    write: bool
    comment: str


def read_request(body: bytes) -> tuple[RequestKind, bytes] | None:
    """Return the kind and the id of a request, or ``None`` for any other envelope."""
    return _read(body, _REQUESTS)


def is_about_files(body: bytes) -> bool:
    """Return whether an envelope is a request to the master that is not about locks.

    These are about what its files hold: free space, keys and indexes.
    """
    return body.startswith(_OTHER_REQUEST)


def is_lock_request(body: bytes) -> bool:
    """Return whether an envelope is a request for a lock."""
    return body.startswith(_LOCK_REQUEST)


def tid_member(body: bytes) -> bytes:
    """Return the JSON of an envelope about a lock that names its transaction; empty if none does.

    It is the same in all envelopes about the transaction.
    """
    found = _TID.search(body)
    return b"" if found is None else found[0]


def read_answer(body: bytes) -> tuple[bool, bytes] | None:
    """Return whether an answer may grant a lock, and its request's id; ``None`` for no answer."""
    return _read(body, _ANSWERS)


def _read(body: bytes, kinds: dict[bytes, _Kind]) -> tuple[_Kind, bytes] | None:
    kind = kinds.get(body[FIRST : body.find(b'"', FIRST, _LONGEST_TYPE)])
    start = body.find(_ID, FIRST, _HEAD) + len(_ID)
    end = body.find(b'"', start, start + MAX_REQUEST_ID + 1)
    if kind is None or start < len(_ID) or end <= start:
        return None
    return kind, body[start:end]


def read_lock_id(body: bytes) -> int | None:
    """Return the id of the lock that an envelope grants, releases or moves."""
    found = _LOCK_ID.search(body)
    return None if found is None else int(found[1])


def read_wish(request: bytes, start: int) -> re.Match[bytes] | None:
    """Return what a usual lock-request asks for; ``None`` for one that is laid out in another way.

    :param start: where its data begin.
    :returns: with the groups 1, the members up to the comment; 2, the tid; 3, ``true`` if it is to
        write; 4, the rest.
    """
    return _WISH.fullmatch(request, start)


def read_grant(result: bytes, start: int) -> tuple[bytes, bool, bytes] | None:
    """Return tid, whether it is to write, and expiry of the lock that a usual lock-result grants.

    :param start: where the lock's id begins.
    """
    found = _GRANT.match(result, start)
    return None if found is None else (found[1], found[2] == b"true", found[3])


def is_to_parent(move: bytes) -> bool:
    """Return whether a request moves a lock to the parent node: no other move exists."""
    return _TO_PARENT in move


def has_failed(answer: bytes) -> bool:
    """Return whether an answer is a failure."""
    return _FAILED in answer


def is_about_unknown_lock(failure: bytes) -> bool:
    """Return whether a master refuses a request because it has no lock of this id.

    The npm package acebase reads the property ``lock`` of nothing then.
    """
    return b"'lock'" in failure


def with_lock_id(body: bytes, lock_id: int) -> bytes:
    """Return the envelope *body* with another lock's id."""
    return _LOCK_ID.sub(b'"data":{"id":%d' % lock_id, body, count=1)


def read_details(body: bytes) -> LockDetails:
    """Return the details in a lock-request or a lock-result; missing ones are empty."""
    data = _data(body)
    texts = [each if isinstance(each, str) else "" for each in map(data.get, _TEXTS)]
    return LockDetails(texts[0], texts[1], data.get("write") is True, texts[2])


_TEXTS = ("path", "tid", "comment")


def _data(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def lock_request(request_id: bytes, worker: str, details: LockDetails) -> bytes:
    """Return the request of *worker* for a lock."""
    data = {
        "path": details.path,
        "tid": details.tid,
        "write": details.write,
        "comment": details.comment,
    }
    return _request(LOCK, request_id, worker, _json(data))


def unlock_request(request_id: bytes, worker: str, lock_id: int) -> bytes:
    """Return the request of *worker* to release a lock."""
    return _request(UNLOCK, request_id, worker, b'{"id":%d}' % lock_id)


def move_request(request_id: bytes, worker: str, lock_id: int) -> bytes:
    """Return the request of *worker* to move a lock to the parent node."""
    return _request(MOVE, request_id, worker, b'{"id":%d,"move_to":"parent"}' % lock_id)


def unlock_result(request_id: bytes, worker: str, lock_id: int) -> bytes:
    """Return the master's answer that a lock of *worker* is released."""
    return _result(b"unlock-result", request_id, worker, b'{"id":%d}' % lock_id)


def moved_to_parent(request_id: bytes, worker: str, lock_id: int, result: bytes) -> bytes:
    """Return the master's answer that the lock of *result* is now one of the parent node.

    :param lock_id: the id by which *worker* knows the lock.
    :param result: the lock-result that has granted it.
    """
    found = _MOVED.search(result)
    if found is not None:
        path = found[1][: max(found[1].rfind(b"/"), found[1].rfind(b"["), 0)]
        moved = b'{"id":%d,"path":"%b"%b' % (lock_id, path, found[2])
        return _result(b"lock-result", request_id, worker, moved)
    data = {**_data(result), "id": lock_id}
    data["path"] = parent_path(data["path"]) if isinstance(data.get("path"), str) else ""
    return _result(b"lock-result", request_id, worker, _json(data))


def is_repeatable(request: bytes) -> bool:
    """Return whether a master may receive *request* a second time.

    Measured with acebase 1.29.13: space that is freed twice is allocated twice, and the two
    nodes overwrite each other. Not to free it costs a few records of 128 bytes.
    """
    return _FREE_SPACE not in request[:_HEAD]


def done(request_id: bytes, worker: str) -> bytes:
    """Return the master's answer that it has done what *worker* has asked."""
    return _result(b"result", request_id, worker, b'{"ok":true}')


def invalidate_caches(worker: str) -> bytes:
    """Return the notification of *worker* that all other processes must drop their caches.

    Measured with acebase 1.29.13: a process that is killed while it moves a node leaves the file
    with the former address and the caches of others with the new one. What they write there
    later is lost to each process that reads the file: 4 of 71 kills, 0 of 45 with this.
    """
    return (
        b'{"type":"notification","from":%b,"data":{"type":"cache.invalidate","path":"",'
        b'"recursive":true,"reason":"the process is gone"}}' % json_string(worker)
    )


def failure(request_id: bytes, worker: str, reason: str) -> bytes:
    """Return the master's answer that a request for or about a lock of *worker* has failed."""
    return b'{"type":"lock-result","id":"%b","from":"%b","to":%b,"ok":false,"reason":%b}' % (
        request_id,
        MASTER,
        json_string(worker),
        json_string(reason),
    )


def parent_path(path: str) -> str:
    """Return the path of the parent node, by AceBase's rules: of ``a/b`` and ``a[0]`` it is ``a``.

    The parent of a node of the root, and of the root itself, is the root: an empty path.
    """
    return path[: max(path.rfind("/"), path.rfind("["), 0)]


def _request(kind: RequestKind, request_id: bytes, worker: str, data: bytes) -> bytes:
    return b'{"type":"%b","id":"%b","from":%b,"to":"%b","data":%b}' % (
        kind.value.encode(),
        request_id,
        json_string(worker),
        MASTER,
        data,
    )


def _result(kind: bytes, request_id: bytes, worker: str, data: bytes) -> bytes:
    return b'{"type":"%b","id":"%b","from":"%b","to":%b,"ok":true,"data":%b}' % (
        kind,
        request_id,
        MASTER,
        json_string(worker),
        data,
    )


def _json(value: Any) -> bytes:
    # In ASCII, because a text may hold a lone surrogate.
    return json.dumps(value, separators=(",", ":")).encode()
