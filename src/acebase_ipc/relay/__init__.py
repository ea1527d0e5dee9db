"""The core: who is connected to which database, and who receives what. Pure."""
