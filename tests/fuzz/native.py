"""``make fuzz-native``: try random frames on the C extension, built with sanitizers.

The extension is compiled with AddressSanitizer and UndefinedBehaviorSanitizer into ``build/fuzz``,
and a Python that is started with them compares each result with that of the Python code. The exit
status is 1 if they differ, or if a sanitizer has ended the process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from typing import Any

from bench.processes import find_compiler

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "acebase_ipc" / "_speedups.c"
BUILT = ROOT / "build" / "fuzz" / "_speedups.abi3.so"
NAME = "acebase_ipc._speedups"

FLAGS = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-shared", "-fPIC"),
    *("-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)

ENVIRONMENT = {
    # Each object of Python is a block of its own, so that reading beyond its end is found.
    "PYTHONMALLOC": "malloc",
    # The interpreter keeps memory until its process ends: tests/protocol/test_native.py finds
    # references that the extension keeps.
    "ASAN_OPTIONS": "detect_leaks=0",
}

LENGTHS: tuple[int, ...] = (*range(20), 124, 125, 126, 127, 128, 1023, 1024, 65535, 65536, 65537)
LIMITS = (0, 125, 126, 1024, 65535, 65536, 1 << 20, 1 << 63)
UNITS: tuple[bytes, ...] = (
    b"x",
    "é".encode(),
    "語".encode(),
    "😀".encode(),
    b"\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90",
)
MAX_CHANGES = 3


def build(compiler: str) -> list[str]:
    """Compile the extension, and return the libraries that a process has to load before it."""
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    include = sysconfig.get_path("include")
    subprocess.run([compiler, *FLAGS, f"-I{include}", "-o", str(BUILT), str(SOURCE)], check=True)
    return [
        subprocess.run(
            [compiler, f"-print-file-name={each}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for each in ("libasan.so", "libubsan.so")
    ]


def load() -> None:
    """Load the extension that was built here in place of the one that is installed."""
    spec = spec_from_file_location(NAME, BUILT, loader=ExtensionFileLoader(NAME, str(BUILT)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module


def payload(random: Random) -> bytes:
    """A payload: text, or nearly."""
    unit = random.choice(UNITS[:4])
    length = random.choice(LENGTHS)
    if random.randrange(4) == 0:
        unit += random.choice(UNITS)
    return (unit * (length // len(unit) + 1))[: length + random.randrange(2)]


def stream(random: Random) -> bytes:
    """Frames of a client, most of them texts, which are changed here and there and cut."""
    header: Any = import_module("acebase_ipc.protocol.frames").header
    data = bytearray()
    for _ in range(random.choice([0, 1, 1, 1, 2, 3, 70])):
        text = payload(random) if len(data) < 1 << 18 else b""
        key = random.randbytes(4)
        first = 0x81 if random.randrange(8) else random.randrange(256)
        data += header(first, len(text), key)
        data += bytes(byte ^ key[index % 4] for index, byte in enumerate(text[:200]))
        data += text[200:]
    for _ in range(random.randrange(MAX_CHANGES)):
        if data:
            data[random.randrange(min(len(data), 30))] = random.randrange(256)
    end = random.choice([len(data), random.randrange(len(data) + 1)])
    return bytes(data[:end])


def seen(result: Any) -> tuple[Any, ...]:
    """What can be compared of what ``split`` has returned."""
    texts, rest, partial = result
    return texts, rest, partial and (partial.raw, partial.received, partial.missing)


def compare(random: Random) -> None:
    """Compare each function with its general one for one input."""
    frames: Any = import_module("acebase_ipc.protocol.frames")
    data, limit = stream(random), random.choice(LIMITS)
    split, text_frame, text_frames, unmask = (
        (native, native.__self__)
        for native in (frames.split, frames.text_frame, frames.text_frames, frames.unmask)
    )
    native, general = (seen(each(data, limit, unmask[1])) for each in split)
    assert native == general, f"split({data[:400]!r}, {limit})"
    for texts in (native[0], [payload(random)]):
        assert text_frames[0](texts) == text_frames[1](texts) == list(map(text_frame[0], texts))
    key = random.randbytes(4)
    part = data[random.randrange(9) :]
    assert unmask[0](part, key) == unmask[1](part, key), f"unmask({part[:400]!r}, {key!r})"


def search(seconds: float, seed: int) -> None:
    """Compare until the time is over."""
    load()
    random = Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        compare(random)
        count += 1
    print(f"native: {count} inputs in {seconds:g} s, seed {seed}: passed", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and search; returns the exit status."""
    parser = argparse.ArgumentParser(description="Fuzz the C extension with sanitizers.")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)g")
    parser.add_argument("--seed", type=int, default=0, help="default: another one each time")
    options = parser.parse_args(arguments)
    seed = options.seed or Random().randrange(1, 1 << 32)
    compiler = find_compiler()
    if compiler is None:
        print("native: SKIPPED: the C extension needs a C compiler", flush=True)
        return 1 if os.environ.get("CI") else 0
    environment = os.environ | ENVIRONMENT | {"LD_PRELOAD": " ".join(build(compiler))}
    code = f"from tests.fuzz.native import search; search({options.seconds}, {seed})"
    status = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=False
    ).returncode
    if status:
        print(f"native: seed {seed}: FAILED", flush=True)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
