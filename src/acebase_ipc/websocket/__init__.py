"""The WebSocket side of the relay, on Autobahn and Twisted."""
