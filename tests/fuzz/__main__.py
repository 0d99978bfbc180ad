"""Hostile input to everything that parses: `python -m tests.fuzz [--target NAME ...] [--executions N] [--seed S]`.

Each target runs in a process of its own, whose end, silence or growth is a fault too. The input of an execution
depends on the seed, the target and its number only, so that `--first NUMBER --executions 1` repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz import TARGETS, Broken, run

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Prints a row for each target; exit status 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--executions", type=int, default=20_000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first execution")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)  # in this process; where to write the number
    options = parser.parse_args()
    if options.alone:
        sys.exit(_alone(options))
    sys.stdout.write("| target | executions | seconds | kept | outcomes |\n|---|---|---|---|---|\n")
    sys.exit(max(_apart(name, options) for name in options.target))


def _alone(options: argparse.Namespace) -> int:
    """Runs one target, and prints its result as JSON."""
    with tempfile.TemporaryDirectory(prefix="sightline-fuzz-") as folder:
        running = run(
            options.target[0], Path(folder), options.seed, options.executions, options.first, watch=options.alone
        )
        try:
            sys.stdout.write(asyncio.run(running).as_json() + "\n")
        except Broken:
            traceback.print_exc()
            return 1
    return 0


def _apart(name: str, options: argparse.Namespace) -> int:
    """Runs a target in another process; prints its row, or what is known about its end."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "execution"
        words = ["--seed", options.seed, "--first", options.first, "--executions", options.executions, "--alone", at]
        command = [sys.executable, "-m", "tests.fuzz", "--target", name, *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "SIGHTLINE_AUDIT": "none"}
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=False)
        if ended.returncode:
            reached = at.read_text() if at.exists() else options.first
            sys.stdout.write(f"{name}: ended with status {ended.returncode}, soon after execution {reached}\n")
            return 1
    found = json.loads(ended.stdout.splitlines()[-1])
    outcomes = ", ".join(
        f"{name} {count:,}" for name, count in sorted(found["outcomes"].items(), key=lambda one: -one[1])
    )
    sys.stdout.write(
        f"| {name} | {found['executions']:,} | {found['seconds']:.0f} | {found['kept_mib']} MiB | {outcomes} |\n"
    )
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    main()
