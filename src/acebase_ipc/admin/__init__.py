"""The admin endpoint: what a relay is doing, and how to control it, over HTTP."""
