"""A Python program as a peer of an AceBase cluster."""
