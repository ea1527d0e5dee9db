"""The relay as a Twisted service, its configuration, and a process of its own."""
