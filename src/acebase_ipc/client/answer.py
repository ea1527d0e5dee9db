"""The answer to a client's handshake, as far as it has arrived."""

from __future__ import annotations

import re
from enum import Enum

from acebase_ipc.client.errors import ConnectionProblem, NotARelay, refused

MAX_HEAD = 64 * 1024
"""Bytes that the head of an answer may have: relays send less than 1 KiB."""

MAX_STATUS = len(b"HTTP/1.1 101")

MAX_REFUSAL = 1024
"""Bytes of a refusal's text that are read: the relay sends one line."""

_HTTP = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?:\r\n|\Z)", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Answer(Enum):
    """What an answer is, unless it is a refusal."""

    INCOMPLETE = "more has to arrive"
    UPGRADE = "101, with a whole head"


def read_answer(answer: bytes, complete: bool = False) -> Answer | ConnectionProblem:
    """Return what *answer* is, or the problem that it means for the client.

    The text of a refusal is read, too: it tells one 409 from another.

    :param complete: whether no more can arrive.
    """
    head, found, body = answer.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if status is None:
        if found or not _HTTP.startswith(head[: len(_HTTP)]) or len(head) > MAX_STATUS:
            return NotARelay("it does not speak HTTP")
        return Answer.INCOMPLETE
    if len(head) > MAX_HEAD:
        return NotARelay("its answer is too long")
    if not found:
        return Answer.INCOMPLETE
    if status[1] == b"101":
        return Answer.UPGRADE
    length = _LENGTH.search(head)
    wanted = min(int(length[1]), MAX_REFUSAL) if length else 0
    if not complete and len(body) < wanted:
        return Answer.INCOMPLETE
    text = body[:wanted].decode("utf-8", "replace").partition("\n")[0]
    return refused(int(status[1]), _CONTROLS.sub(" ", text).strip())
