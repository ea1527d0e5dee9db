"""The HTTP side of the relay, on twisted.web."""
