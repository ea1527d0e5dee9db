"""Makes ``twistd acebase-ipc`` known; :mod:`acebase_ipc.tap` is imported only when it is run."""

import gc
import signal
from typing import Any

from twisted.application.service import ServiceMaker


class RelayMaker(ServiceMaker):
    """Makes the service of ``twistd acebase-ipc``."""

    @property
    def options(self) -> Any:
        """The class of the options; asked for only when the command is run.

        SIGHUP, SIGUSR1 and SIGUSR2 would end the process until the relay handles them. Before the
        modules are imported, which takes most of a start, there is nothing to reload yet. Of what
        is imported nothing is garbage: a search for it would take a tenth of the time. The daemon
        enables it when it is ready.
        """
        gc.disable()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        return super().options


acebase_ipc_service = RelayMaker(
    "AceBase IPC relay",
    "acebase_ipc.tap",
    "A WebSocket relay that lets several processes share one AceBase database.",
    "acebase-ipc",
)
