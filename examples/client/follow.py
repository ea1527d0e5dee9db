"""Prints what changes at a path of the database:  python follow.py orders

An asyncio program. Twisted, on which the client is built, runs on its loop.
"""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager, suppress

from twisted.internet import asyncioreactor

from acebase_ipc import AceBasePeer
from acebase_ipc.client.errors import ConnectionProblem


@asynccontextmanager
async def twisted_reactor():
    """Run Twisted's reactor: once in a process, before Twisted is used."""
    asyncioreactor.install(asyncio.get_running_loop())
    from twisted.internet import reactor

    reactor.startRunning(installSignalHandlers=False)
    try:
        yield
    finally:
        reactor.getThreadPool().stop()  # its threads would keep the process alive


async def follow(path):
    """Print a line of JSON for each change at *path*, until the task is cancelled.

    Raises a ConnectionProblem if the relay cannot be reached, or refuses the program.
    """
    loop = asyncio.get_running_loop()
    changes = asyncio.Queue()
    peer = AceBasePeer(
        os.environ.get("ACEBASE_IPC_URL", "ws://127.0.0.1:9163"),
        "shop_data",  # what the relay calls the database "shop"
        token=os.environ.get("ACEBASE_IPC_TOKEN") or None,
    )
    peer.subscribe(path, "mutated", changes.put_nowait)
    peer.startService()
    try:
        await peer.when_connected(fail_after_failures=3).asFuture(loop)
        print(f"following {path}", file=sys.stderr)
        while True:
            change = await changes.get()
            line = {"path": change.path, "value": change.value, "previous": change.previous}
            print(json.dumps(line, ensure_ascii=False), flush=True)
    finally:
        await peer.stopService().asFuture(loop)


async def main():
    async with twisted_reactor():
        await follow(sys.argv[1])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(main())
        except ConnectionProblem as problem:
            sys.exit(f"follow.py: {problem}")
