"""Makes ``twistd acebase-ipc`` known; :mod:`acebase_ipc.tap` is imported only when it is run."""

from twisted.application.service import ServiceMaker

acebase_ipc_service = ServiceMaker(
    "AceBase IPC relay",
    "acebase_ipc.tap",
    "A WebSocket relay that lets several processes share one AceBase database.",
    "acebase-ipc",
)
