"""What can be wrong with a configuration, a request or a message.

Every refusal is one of these, and carries what the client is told::

    IPCError
    ├── ConfigError (also a ValueError)   an option or argument cannot be used
    ├── RequestRefused                    an HTTP request or a handshake: .status
    │   ├── BadRequest          400       it cannot be parsed
    │   ├── Unauthorized        403       the origin or host of a request
    │   ├── WrongToken          403/401   the token of a handshake / a request
    │   ├── DatabaseNotServed   403       none of --database matches its wire name
    │   ├── NotAPeer            401       the id of a request
    │   ├── UnsupportedVersion  409       the client's IPC version
    │   ├── InvalidClientId     500       the status the npm package acebase looks for
    │   ├── InvalidDatabaseName 400
    │   ├── NotFound            404
    │   ├── MethodNotAllowed    405
    │   ├── AmbiguousPeer       409       several databases have a peer of that id
    │   ├── ConflictingId         409       another living process has this id
    │   ├── HistoryGap          410       changes after a cursor are not known any more
    │   ├── RequestTooLarge     413
    │   ├── UpgradeRequired     426
    │   ├── HeadTooLarge        431       the request line and headers
    │   ├── HTTPVersionRefused  505       an upgrade over HTTP/1.0
    │   └── Overloaded          503       a limit is reached: try again later
    └── MessageRefused                    a message: .close_code and .status
        ├── InvalidAddress      1008/400
        ├── InvalidNumber       1008/400  in a resumable session
        ├── MissingMessages     1008/409  in a resumable session
        ├── WrongSession        1008/410  in a resumable session, of a POST
        ├── InvalidText         1007/400
        └── MessageTooLarge     1009/413

``str(error)`` is the one line of text that the client receives. It never
holds a token, a message body or a whole URL.
"""

from __future__ import annotations


class IPCError(Exception):
    """The base of every error this package raises on purpose."""


class ConfigError(IPCError, ValueError):
    """An option or argument cannot be used; the text says which and why."""
