"""Answers Node.js processes that ask for the price of an order:  python answer.py"""

import os

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from acebase_ipc import AceBasePeer
from acebase_ipc.client.errors import ConnectionProblem

CENTS = {"coffee": 420, "tea": 350}


async def price(data, sender):
    """Answer ``{type: 'price', item, pieces}``. An exception fails the request with its text."""
    if data["item"] not in CENTS:
        raise ValueError(f"there is no {data['item']}")
    return CENTS[data["item"]] * data["pieces"]


async def main(reactor):
    peer = AceBasePeer(
        os.environ.get("ACEBASE_IPC_URL", "ws://127.0.0.1:9163"),
        "shop_data",  # what the relay calls the database "shop"
        id="shop-prices",  # the id that the other processes ask
        token=os.environ.get("ACEBASE_IPC_TOKEN") or None,
    )
    peer.on_request("price", price)
    peer.client.on_connected(lambda: print("answering", flush=True))
    peer.startService()
    reactor.addSystemEventTrigger("before", "shutdown", peer.stopService)
    try:
        await peer.when_ended()  # by the shutdown
    except ConnectionProblem as problem:
        raise SystemExit(f"answer.py: {problem}") from None


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
