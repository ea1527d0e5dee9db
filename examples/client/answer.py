"""Tells Node.js processes the price of what is ordered:  python answer.py"""

import os

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from acebase_ipc import AceBasePeer
from acebase_ipc.client_errors import ClientStopped, ConnectionProblem

CENTS = {"coffee": 420, "tea": 350}


async def price(data, sender):
    """Answer ``{type: 'price', item, pieces}``. An exception fails the request with its text."""
    if data["item"] not in CENTS:
        raise ValueError(f"there is no {data['item']}")
    return CENTS[data["item"]] * data["pieces"]


async def stay_connected(peer):
    """Say each time that there is a connection. Raises what ends the client."""
    while True:
        lost = Deferred()
        stop = peer.client.on_disconnected(lost.callback)
        await peer.whenConnected()
        print("answering", flush=True)
        await lost
        stop()


async def main(reactor):
    peer = AceBasePeer.at(
        os.environ.get("ACEBASE_IPC_URL", "ws://127.0.0.1:9163"),
        "shop_data",  # what the relay calls the database "shop"
        id="shop-prices",  # whom the others ask
        token=os.environ.get("ACEBASE_IPC_TOKEN"),
    )
    peer.on_request("price", price)
    peer.startService()
    reactor.addSystemEventTrigger("before", "shutdown", peer.stopService)
    try:
        await stay_connected(peer)
    except ClientStopped:
        pass  # by the shutdown
    except ConnectionProblem as problem:
        raise SystemExit(f"answer.py: {problem}") from None


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
