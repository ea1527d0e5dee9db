"""The store of a cluster as a model: what Redis does with the script, in Python."""

from __future__ import annotations

from acebase_ipc.cluster.leases import Command, Home, Record, Reply, Status, Verb


class ModelStore:
    """Runs commands as Redis runs the script; knows nothing of time but what it is told."""

    def __init__(self) -> None:
        self._runs = 0
        self._epoch = 0
        self.restart(0)

    def restart(self, now: int, loses_epoch: bool = False) -> None:
        """Forget all but, perhaps, the last epoch.

        :param now: milliseconds of the store's own clock.
        """
        self._runs += 1
        self.token = f"run{self._runs}"
        self.is_ripe = False
        self._epoch = max(0 if loses_epoch else self._epoch, now)
        self.relays: dict[str, Record] = {}
        self.homes: dict[str, Home] = {}

    def run(self, command: Command) -> Reply:
        """Run a command."""
        relay, arguments = command.relay, command.arguments
        status, home, refused = Status.DONE, None, list[str]()
        match command.verb, arguments:
            case Verb.JOIN, (int(counter), str(about), int(known), *homes):
                self._rise(known)
                self.relays[relay] = Record(counter, about)
                for database, own in zip(homes[::2], homes[1::2], strict=True):
                    assert isinstance(own, int)
                    there = self.homes.get(str(database))
                    if not self.is_ripe and (there is None or there.epoch < own):
                        self.homes[str(database)] = Home(relay, own)
                    elif there != Home(relay, own):
                        refused.append(str(database))
            case Verb.LEAVE, ():
                self._forget(relay)
            case _ if relay not in self.relays:
                status = Status.GONE
            case Verb.RENEW, (int(counter), str(about)):
                self.relays[relay] = Record(counter, about)
            case Verb.BURY, (str(other), int(counter)):
                if other in self.relays and self.relays[other].counter == counter:
                    self._forget(other)
            case Verb.RIPEN, (str(token),):
                self.is_ripe = self.is_ripe or token == self.token
            case Verb.FIND, (str(database),):
                home = self.homes.get(database)
            case Verb.CLAIM, (str(database), int(known)):
                home = self.homes.get(database)
                if home is None or home.relay == relay or home.relay not in self.relays:
                    if not self.is_ripe:
                        status, home = Status.UNRIPE, None
                    else:
                        home = self.homes[database] = Home(relay, self._rise(known, 1))
            case Verb.RELEASE, (str(database), int(epoch)):
                if self.homes.get(database) == Home(relay, epoch):
                    del self.homes[database]
            case Verb.GIVE, (str(database), int(epoch), str(other)):
                if self.homes.get(database) == Home(relay, epoch) and other in self.relays:
                    home = self.homes[database] = Home(other, self._rise(epoch, 1))
            case Verb.WATCH, ():
                pass
            case _:
                raise AssertionError(command)
        shows = command.verb in (Verb.JOIN, Verb.RENEW, Verb.WATCH)
        records = dict(self.relays) if shows else None
        return Reply(status, self.token, self.is_ripe, records or None, home, tuple(refused))

    def _rise(self, known: int, by: int = 0) -> int:
        self._epoch = max(self._epoch, known) + by
        return self._epoch

    def _forget(self, relay: str) -> None:
        self.relays.pop(relay, None)
        self.homes = {
            database: home for database, home in self.homes.items() if home.relay != relay
        }
