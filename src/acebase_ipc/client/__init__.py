"""The client of the relay: a Python program becomes a peer of a database."""
