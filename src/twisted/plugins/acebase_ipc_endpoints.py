"""Makes the ``pfx:`` endpoint description known to Twisted."""

from acebase_ipc.server.pfx import PFXServerEndpointParser

pfx_server_endpoint_parser = PFXServerEndpointParser()
