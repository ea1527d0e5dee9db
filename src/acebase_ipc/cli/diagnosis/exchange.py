"""The last steps of ``doctor``: two clients talk to each other, and are silent for a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from acebase_ipc.cli.diagnosis.findings import Finding, error, ok, skipped
from acebase_ipc.cli.diagnosis.probes import Target
from acebase_ipc.cli.output import duration, one_line
from acebase_ipc.cli.output import size as show_size
from acebase_ipc.cli.pair import Pair, connected_pair
from acebase_ipc.client.errors import ClientError, ConnectionProblem
from acebase_ipc.relay.limits import MIB

SMALL: Final = 200
LARGE: Final = 2 * MIB
"""Bytes: more than proxies accept by default."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What two clients experienced.

    :ivar small: seconds of a round trip of a small message, or why there was none.
    :ivar large: the same with a large one; ``None`` if it was not tried.
    :ivar silent: the seconds for which the connection lasted without messages.
    :ivar cut: why it ended before its time; ``None`` if it did not.
    """

    small: float | str
    large: float | str | None = None
    silent: float = 0.0
    cut: str | None = None


async def exchange(reactor: Any, url: str, target: Target, idle: float) -> Exchange:
    """Let two clients talk.

    :param idle: seconds for which they are silent afterwards.
    """
    try:
        async with connected_pair(reactor, url, target.database, target.token, target.ca) as pair:
            small = await _try(pair, SMALL)
            large = None if isinstance(small, str) else await _try(pair, LARGE)
            if idle == 0 or not isinstance(large, float):
                return Exchange(small, large)
            began = time.monotonic()
            cut = await _silence(reactor, pair, idle)
            return Exchange(small, large, time.monotonic() - began, cut)
    except ClientError as fault:
        return Exchange(one_line(fault))


async def _try(pair: Pair, size: int) -> float | str:
    """Return the seconds of a round trip, or why there was none."""
    try:
        return await pair.round_trip("." * size)
    except ClientError as fault:
        return one_line(fault)


async def _silence(reactor: Any, pair: Pair, seconds: float) -> str | None:
    """Wait so many seconds; returns why the connection ended, if it did."""
    from twisted.internet.defer import Deferred, TimeoutError

    cut: Deferred[ConnectionProblem] = Deferred()

    def ended(problem: ConnectionProblem) -> None:
        if not cut.called:
            cut.callback(problem)

    forget = pair.near.on_disconnected(ended)
    try:
        return one_line(await cut.addTimeout(seconds, reactor))
    except TimeoutError:
        return None
    finally:
        forget()


def examine_exchange(seen: Exchange, idle: float) -> Iterator[Finding]:
    """Yield what two clients have *seen*.

    :param idle: the seconds for which they were to be silent.
    """
    if isinstance(seen.small, str):
        yield error("messages", f"none arrives: {seen.small}", "see the relay's log")
        return
    yield ok("messages", f"a message is back after {duration(seen.small)}")
    if isinstance(seen.large, str):
        yield error(
            "large messages",
            f"one of {show_size(LARGE)} does not arrive: {seen.large}",
            "raise the limit of the proxy on the way (with nginx: client_max_body_size 64m), and"
            " see the relay's log",
        )
        return
    yield ok("large messages", f"one of {show_size(LARGE)} is back after {duration(seen.large)}")
    if seen.cut is not None:
        yield error(
            "idle",
            f"a connection without messages was cut after {duration(seen.silent)}: {seen.cut}",
            "raise the time-outs of the proxy on the way above 60 s (with nginx:"
            " proxy_read_timeout 1h; proxy_send_timeout 1h;), or lower the relay's"
            " --keepalive-interval",
        )
    elif idle == 0:
        yield skipped("idle", "not looked at: give --idle 90 to find time-outs of proxies")
    else:
        yield ok("idle", f"a connection without messages lasts {duration(idle)}")
