"""A Python program as a member of an AceBase cluster."""
