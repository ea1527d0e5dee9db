"""``make fuzz``: try inputs on each target for a while, guided by coverage.

It begins with the committed corpus, and keeps what it learns in
``build/fuzz``. What breaks a target is left there, too; its bytes belong into
``tests/test_fuzz.py`` together with the remedy. The exit status is then 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus")
WORK = ROOT / "build" / "fuzz"

TARGETS = (
    *("frames", "framing", "wire", "handshake", "dialect", "tokens", "http", "peer", "relay"),
    "sessions",
)

SLOW = 20
"""Seconds that one input may take."""

LONG = {"http": 600, "peer": 600, "relay": 400, "frames": 600}
"""Bytes of the longest inputs that make sense, where it is not the default."""

MAX_LENGTH = 300
MAX_RSS = 1024  # MiB


def fuzz(target: str, seconds: int, seed: int) -> bool:
    """Fuzz a target; whether nothing was found."""
    learnt = WORK / target
    learnt.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", target),
        *(f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MAX_RSS}"),
        *(f"-max_len={LONG.get(target, MAX_LENGTH)}", f"-artifact_prefix={WORK}/{target}-"),
        *(f"-seed={seed}", str(learnt), str(CORPUS / target)),
    ]
    log = WORK / f"{target}.log"
    with log.open("wb") as output:
        status = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=output, check=False
        ).returncode
    said = log.read_text(errors="replace")
    runs = re.findall(r"Done (\d+) (?:runs )?in (\d+) second", said)
    what = f"{runs[-1][0]} inputs in {runs[-1][1]} s" if runs else _finding(said)
    print(f"{target}: {what}: {'FAILED' if status else 'passed'}", flush=True)
    return status == 0


def _finding(said: str) -> str:
    """Return what the fuzzer tells of an input: the traceback of an exception, or the end."""
    start = said.find("=== Uncaught Python exception")
    return said[start:][:3000] if start >= 0 else said[-1500:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the targets, one after the other; returns the exit status."""
    parser = argparse.ArgumentParser(description="Fuzz, guided by coverage.")
    parser.add_argument("--seconds", type=int, default=60, help="for each; default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the inputs; default: another one each time"
    )
    parser.add_argument("targets", nargs="*", help="default: all")
    options = parser.parse_args(arguments)
    wrong = set(options.targets) - set(TARGETS)
    if wrong:
        parser.error(f"there is no target {', '.join(wrong)}: there are {', '.join(TARGETS)}")
    passed = [fuzz(each, options.seconds, options.seed) for each in options.targets or TARGETS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
