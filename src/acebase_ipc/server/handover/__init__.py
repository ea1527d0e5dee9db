"""Hands all connections of a relay over to its successor, another process.

The successor connects to its predecessor, or was started by it with a connected socket. Then:

=============================  ====================================================
the successor                  the predecessor
=============================  ====================================================
``HELLO``: the format          ``SOCKETS``: those that it listens on, and its locks
builds everything
``BUILT``: how many
descriptors it can take        from now on it reads nothing and writes nothing
``TAKEN`` after each           ``EVENTS`` of the past and ``CONNECTIONS``, some
                               hundred at a time; ``CONNECTION_STATE``, and ``STATE``,
                               made while the successor adopts that
adopts everything
``READY``                      ``GO``, and releases everything
=============================  ====================================================

Each can send ``REFUSED`` with a reason instead, until ``GO``; then, as after any failure, the
predecessor goes on as if nothing had happened. It does nothing else between ``BUILT`` and
``GO``, so that there is nothing to undo. If it has ended without a word after ``READY``, the
successor goes on as after ``GO``: nobody else has the connections.
"""
