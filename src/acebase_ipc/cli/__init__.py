"""The command ``acebase-ipc``: shows and steers a running relay through its admin endpoint."""
