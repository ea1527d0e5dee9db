# Logs each order that the shop stores:  twistd -n -y watch.tac
import os

from twisted.application import service
from twisted.logger import Logger

from acebase_ipc import AceBasePeer

log = Logger("watch")


def ordered(event):
    """An order was added: its path is orders/<key>, its value what was stored."""
    order = event.value
    log.info("{path}: {pieces} x {item}", path=event.path, pieces=order["pieces"], item=order["item"])


peer = AceBasePeer(
    os.environ.get("ACEBASE_IPC_URL", "ws://127.0.0.1:9163"),
    "shop_data",  # what the relay calls the database "shop"
    token=os.environ.get("ACEBASE_IPC_TOKEN") or None,
)
peer.subscribe("orders", "child_added", ordered)
peer.client.on_connected(lambda: log.info("watching the orders"))

application = service.Application("watch")
peer.setServiceParent(application)
