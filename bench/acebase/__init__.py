"""Measures what users of a cluster feel: how fast real AceBase processes write and read."""
