"""The relay as a Twisted service, its configuration, and the relay's own process."""
