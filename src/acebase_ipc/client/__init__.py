"""The client of the relay: with it a Python program becomes a peer of a database."""
