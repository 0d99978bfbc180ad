"""Runs a campaign: `python -m tests.chaos.campaign.run records --seed 7 --minutes 5`; exits with 1 after a violation.

It prints every fault as it happens, then the figures. The same seed gives the same faults and the same calls in the
same order; how they meet differs from run to run, as it does in production.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.campaign import faults, suite
from tests.chaos.campaign.broker import Broker
from tests.chaos.campaign.faults import Planned, Site
from tests.chaos.campaign.links import Network
from tests.chaos.campaign.probes import Outage
from tests.chaos.campaign.records import Story

PAUSE_SECONDS = 0.5, 3.0  # between two faults

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a campaign is to do."""

    seed: str
    minutes: float
    callers: int
    only: Sequence[str] = ()  # names of faults; empty: all of the story's
    pace: float = 1.0  # how many times as fast faults follow each other, and trainings step
    models: int = 1  # of each dataset, or one more


@dataclass(slots=True)
class Outcome:
    """What a campaign did and found."""

    figures: dict[str, object] = field(default_factory=dict[str, object])
    violations: list[str] = field(default_factory=list[str])


def disturb(
    site: Site, planned: Iterable[Planned], minutes: float, say: Say, outages: list[Outage] | None = None
) -> Counter[str]:
    """Carries out the faults until the time is over; returns how many of each there were.

    Adds what was away for every process to the outages.
    """
    done, deadline = Counter[str](), time.monotonic() + 60 * minutes
    for one in planned:
        if time.monotonic() + one.after_seconds > deadline:
            break
        time.sleep(one.after_seconds)
        began = time.monotonic()
        hit = faults.carry_out(one, site)
        if outages is not None and hit in faults.EVERYTHING and one.name != "restart-all":
            outages.append(Outage(one.name, began, began + one.seconds))
        done[one.name] += 1
        say(f"{one}: {hit}")
    return done


def records(wanted: Wanted, folder: Path, say: Say) -> Outcome:
    """The campaign on records and queue."""
    chosen = wanted.only or [name for name in faults.BROKER if name != "wipe-jobs"]
    planned = faults.schedule(wanted.seed, chosen, PAUSE_SECONDS, wanted.pace)
    partitions = "partition-server" in chosen

    with Network(wanted.seed) as network:
        route = network.link if partitions else lambda _, port: port
        with Broker(folder, route) as broker:
            site, began = Site(broker, network), time.monotonic()

            async def told() -> tuple[Story, Counter[str]]:
                story, over = Story(wanted.seed, broker.url, wanted.callers), asyncio.Event()
                running = asyncio.create_task(story.run(over))
                try:
                    done = await asyncio.to_thread(disturb, site, planned, wanted.minutes, say)
                finally:
                    over.set()
                await running
                return story, done

            story, done = asyncio.run(told())
    tally = story.tally
    return Outcome(
        {
            "seed": wanted.seed,
            "seconds": round(time.monotonic() - began),
            "faults": dict(done),
            "killed": broker.killed,
            "acknowledged": tally.acknowledged.total(),
            "unanswered": tally.unanswered.total(),
            "jobs": len(tally.published),
            "delivered again": tally.delivered.total() - len(tally.delivered),
            "longest call, s": round(tally.longest_seconds, 2),
        },
        tally.violations,
    )


def _with_news(planned: Iterable[Planned], campaign: suite.Campaign, say: Say) -> Iterator[Planned]:
    """The faults; after every hundred it prints the figures so far, and what was violated since the last time."""
    told = 0
    for one in planned:
        if one.number and one.number % 100 == 0:
            say(json.dumps(campaign.figures()))
            for violation in campaign.tally.violations[told:]:
                say(f"violated: {violation}")
                told += 1
        yield one


def whole(wanted: Wanted, folder: Path, say: Say) -> Outcome:
    """The campaign on the whole suite."""
    planned = faults.schedule(wanted.seed, wanted.only or [*faults.BROKER, *faults.SUITE], PAUSE_SECONDS, wanted.pace)
    began = time.monotonic()
    with suite.running(
        wanted.seed, folder, callers=wanted.callers, replicas=2, models=wanted.models, pace=wanted.pace
    ) as campaign:
        say(f"the suite runs after {time.monotonic() - began:.0f} s")
        done = disturb(campaign.site, _with_news(planned, campaign, say), wanted.minutes, say, campaign.outages)
    seconds = round(time.monotonic() - began)
    figures = {"seed": wanted.seed, "seconds": seconds, "faults": done.total(), **campaign.figures()}
    return Outcome(figures | {"of each": dict(done)}, campaign.tally.violations)


def main(arguments: Sequence[str]) -> int:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("story", choices=list(STORIES))
    parser.add_argument("--seed", default="1")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--lanes", type=int, default=4, help="callers")
    parser.add_argument("--only", default="", help="names of faults, separated by commas")
    parser.add_argument("--pace", type=float, default=1.0, help="how many times as fast all goes")
    parser.add_argument("--models", type=int, default=1, help="of each dataset, or one more")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the servers' files and logs; by default a temporary one"
    )
    asked = parser.parse_args(arguments)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="campaign-"))
    only = [name for name in asked.only.split(",") if name]
    wanted = Wanted(asked.seed, asked.minutes, asked.lanes, only, asked.pace, asked.models)
    try:
        story = STORIES[asked.story]
        outcome = story(wanted, folder, _print)
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    _print(json.dumps(outcome.figures))
    for violation in outcome.violations[:20]:
        _print(f"violated: {violation}")
    _print(f"{len(outcome.violations)} violations; repeat with --seed {asked.seed}")
    return 1 if outcome.violations else 0


STORIES = {"records": records, "suite": whole}


def _print(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
