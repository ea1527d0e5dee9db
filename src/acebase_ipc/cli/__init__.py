"""The command ``acebase-ipc``: shows and steers a running relay through its admin endpoint."""

from typing import Final

INTERRUPTED: Final = 130
"""The status that shells give to a command that SIGINT has ended."""
