"""Several relays as one: which of them serves a database, and how clients reach it."""
