"""The same random work for clusters on different relays, and what it has to leave behind.

::

    python -m tests.acebase.same_work --operations 10000 --seed 7

Four workers do sets, updates, removes, transactions, transactions within others, arrays, indexes,
queries and reads, each in its own part of the database, and all of them add to two counters. So
the content at the end and what each of them reads depend on the seed alone, and are known before:
with lock sessions and without, every process has to read the same.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acebase.cluster import Cluster, Peer, Relay, Role, running_relay

WORKERS = 4
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
ITEMS, ARRAYS, ROWS = 12, 6, 15
"""Children of a node at most: adding to nodes of many children can fail in the client."""

SHARED = ("first", "second")
MODES = {"with": (), "without": ("--no-lock-sessions",)}
AT_ONCE = 50
"""Operations that a worker is told to do at once."""

PATIENCE = 100.0
"""Seconds for these. A lock that nobody releases expires after 120."""


@dataclass(slots=True)
class Script:
    """The operations of one worker.

    :ivar part: its part of the database, as it is after them.
    :ivar shared: what it has added to each of the counters of all.
    :ivar read: what it reads.
    """

    path: str
    operations: list[dict[str, Any]] = field(default_factory=list)
    part: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    read: list[Any] = field(default_factory=list)

    def do(self, name: str, **parameters: Any) -> None:
        """Add an operation."""
        self.operations.append({"do": name, **parameters})


def empty_part() -> dict[str, Any]:
    """The part of a worker before its operations. No node of it ever becomes empty."""
    return {
        "count": 0,
        "items": {"seed": {"word": "seed"}},
        "arrays": {"seed": [0, 1, 2]},
        "rows": {"seed": {"size": 0, "text": "a row".ljust(60, ".")}},
    }


class Writer:
    """Writes the script of one worker."""

    def __init__(self, seed: int, number: int) -> None:
        self.script = Script(f"work/w{number}", part=empty_part(), shared=dict.fromkeys(SHARED, 0))
        self._random = random.Random(f"{seed} {number}")
        self._steps = [
            (self._set_item, 5),
            (self._update_item, 4),
            (self._remove_item, 2),
            (self._set_row, 3),
            (self._query, 1),
            (self._set_array, 2),
            (self._set_element, 2),
            (self._add_to_element, 2),
            (self._count, 3),
            (self._add_to_shared, 3),
            (self._add_to_both, 2),
            (self._read, 2),
        ]

    def write(self, count: int, indexed: bool) -> Script:
        """A script of so many operations."""
        if indexed:
            self.script.do("index", path=f"{self.script.path}/rows", key="size")
        steps, weights = zip(*self._steps, strict=True)
        for step in self._random.choices(steps, weights, k=count):
            step()
        return self.script

    def _value(self, depth: int = 0) -> Any:
        kinds = ["number", "word", "text", "flag", "object", "array"]
        match self._random.choice(kinds[:4] if depth > 1 else kinds):
            case "number":
                return self._random.randrange(10**6)
            case "word":
                return self._random.choice(WORDS)
            case "text":
                return self._random.choice(WORDS) * self._random.randrange(12, 60)
            case "flag":
                return self._random.random() < 0.5
            case "object":
                keys = self._random.sample(WORDS, self._random.randrange(1, 4))
                return {each: self._value(depth + 1) for each in keys}
            case _:
                return [self._value(depth + 1) for _ in range(self._random.randrange(1, 5))]

    def _child(self, key: str) -> dict[str, Any]:
        child: dict[str, Any] = self.script.part[key]
        return child

    def _set_item(self) -> None:
        key, value = f"item{self._random.randrange(ITEMS)}", self._value()
        self._child("items")[key] = value
        self.script.do("set", path=f"{self.script.path}/items/{key}", value=value)

    def _update_item(self) -> None:
        items = self._child("items")
        key = self._random.choice(list(items))
        if not isinstance(items[key], dict):
            self._set_item()
            return
        changes: dict[str, Any] = {"word": self._random.choice(WORDS)}
        for each in self._random.sample(WORDS, 2):
            changes[each] = None if self._random.random() < 0.3 else self._value(1)
        merged = {**items[key], **changes}
        items[key] = {each: value for each, value in merged.items() if value is not None}
        self.script.do("update", path=f"{self.script.path}/items/{key}", value=changes)

    def _remove_item(self) -> None:
        key = f"item{self._random.randrange(ITEMS)}"
        self._child("items").pop(key, None)
        self.script.do("remove", path=f"{self.script.path}/items/{key}")

    def _set_row(self) -> None:
        key = f"row{self._random.randrange(ROWS)}"
        text = self._random.choice(WORDS).ljust(self._random.randrange(10, 80), ".")
        row = {"size": self._random.randrange(100), "text": text}
        self._child("rows")[key] = row
        self.script.do("set", path=f"{self.script.path}/rows/{key}", value=row)

    def _query(self) -> None:
        least = self._random.randrange(100)
        rows = self._child("rows")
        self.script.do("query", path=f"{self.script.path}/rows", key="size", least=least)
        self.script.read.append(sorted(key for key, row in rows.items() if row["size"] >= least))

    def _set_array(self) -> None:
        key = f"array{self._random.randrange(ARRAYS)}"
        array = [self._random.randrange(1000) for _ in range(self._random.randrange(1, 20))]
        self._child("arrays")[key] = array
        self.script.do("set", path=f"{self.script.path}/arrays/{key}", value=list(array))

    def _element(self) -> tuple[list[int], int, str]:
        arrays = self._child("arrays")
        key = self._random.choice(list(arrays))
        index = self._random.randrange(len(arrays[key]))
        return arrays[key], index, f"{self.script.path}/arrays/{key}[{index}]"

    def _set_element(self) -> None:
        array, index, path = self._element()
        array[index] = self._random.randrange(1000)
        self.script.do("set", path=path, value=array[index])

    def _add_to_element(self) -> None:
        array, index, path = self._element()
        amount = self._random.randrange(1, 10)
        array[index] += amount
        self.script.do("add", path=path, amount=amount)

    def _count(self) -> None:
        self.script.part["count"] += 1
        self.script.do("add", path=f"{self.script.path}/count", amount=1)

    def _add_to_shared(self) -> None:
        key, amount = self._random.choice(SHARED), self._random.randrange(1, 10)
        self.script.shared[key] += amount
        self.script.do("add", path=f"shared/{key}", amount=amount)

    def _add_to_both(self) -> None:
        amount = self._random.randrange(1, 10)
        outer, inner = self._random.sample(SHARED, 2)
        for key in (outer, inner):
            self.script.shared[key] += amount
        self.script.do("nested", path=f"shared/{outer}", inner=f"shared/{inner}", amount=amount)

    def _read(self) -> None:
        child = self._random.choice(["items", "rows", "arrays"])
        key = self._random.choice(list(self._child(child)))
        self.script.do("get", path=f"{self.script.path}/{child}/{key}")
        value = self._child(child)[key]
        self.script.read.append(list(value) if isinstance(value, list) else value)


def write_scripts(operations: int, seed: int, indexed: bool = True) -> list[Script]:
    """The scripts of all workers, of so many operations together.

    :param indexed: whether the queries use an index.
    """
    count = operations // WORKERS
    return [Writer(seed, number).write(count, indexed) for number in range(WORKERS)]


def differences(read: Any, expected: Any, path: str = "") -> Iterator[str]:
    """A line for each value that is not the expected one."""
    if isinstance(read, dict) and isinstance(expected, dict):
        for key in sorted({*read, *expected}):
            yield from differences(read.get(key), expected.get(key), f"{path}/{key}")
    elif read != expected:
        yield f"{path}: {read!r}, not {expected!r}"


def perform(worker: Peer, script: Script) -> list[Any]:
    """Let a worker execute its script; returns what it has read."""
    read: list[Any] = []
    for start in range(0, len(script.operations), AT_ONCE):
        operations = script.operations[start : start + AT_ONCE]
        read += worker.call("perform", PATIENCE, operations=operations)
    return read


def do_work(relay: Relay, directory: Path, scripts: Sequence[Script]) -> list[str]:
    """Let the workers of a cluster execute their scripts at the same time.

    :returns: a line for each value that any process has read wrongly.
    """
    wrong: list[str] = []
    with Cluster(relay.addresses, directory, "work") as cluster:
        (master,) = cluster.join("master")
        master.set("work", {f"w{number}": empty_part() for number in range(len(scripts))})
        master.set("shared", dict.fromkeys(SHARED, 0))
        roles: list[Role] = ["worker"] * len(scripts)
        workers = cluster.join(*roles)
        with ThreadPoolExecutor(len(scripts)) as threads:
            for script, read in zip(scripts, threads.map(perform, workers, scripts), strict=True):
                for number, (one, other) in enumerate(zip(read, script.read, strict=True)):
                    wrong += differences(one, other, f"{script.path}: read {number}")
        content: dict[str, Any] = {each.path: each.part for each in scripts}
        content["shared"] = {key: sum(each.shared[key] for each in scripts) for key in SHARED}
        (late,) = cluster.join("worker")
        for peer in (master, *workers, late):
            for path, value in content.items():
                wrong += differences(peer.get(path), value, f"{peer.name}: {path}")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the work in both modes; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compare clusters that do the same work.")
    parser.add_argument("--operations", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: a new one")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    scripts = write_scripts(options.operations, seed)
    failed = False
    for mode, relay_options in MODES.items():
        with tempfile.TemporaryDirectory() as directory, running_relay(*relay_options) as relay:
            began = time.monotonic()
            wrong = do_work(relay, Path(directory), scripts)
            took = time.monotonic() - began
        failed = failed or bool(wrong)
        verdict = f"{len(wrong)} values are wrong" if wrong else "as expected"
        sys.stdout.write(f"{mode} lock sessions: {took:.0f} s, {verdict}\n")
        for each in wrong[:20]:
            sys.stdout.write(f"  {each}\n")
    sys.stdout.write(f"{'FAILED' if failed else 'passed'} with seed {seed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
