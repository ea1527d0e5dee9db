"""The core: the peers of each database, and who receives which message. Pure."""
