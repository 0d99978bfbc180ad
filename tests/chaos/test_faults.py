"""A short campaign of faults on the whole suite, and what a campaign is made of. `make chaos` runs long ones."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.chaos.campaign import faults, run
from tests.chaos.campaign.history import History, Violation
from tests.chaos.campaign.run import Wanted

SEED = "1"
MINUTES = 0.35
BROKER_FAULTS = ["kill-leader", "pause-server", "kill-server"]
SUITE_FAULTS = ["kill-process", "zombie", "kill-leader", "store-reset", "wipe-jobs", "repeat-jobs", "store-corrupt"]

log = logging.getLogger(__name__)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_faults_of_every_kind_break_no_promise(tmp_path: Path) -> None:
    outcome = run.whole(Wanted(SEED, MINUTES, callers=2, only=SUITE_FAULTS), tmp_path, log.warning)
    assert outcome.violations == [], outcome.figures
    assert outcome.figures["faults"], outcome.figures
    assert outcome.figures["stories"], outcome.figures


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nats_servers_that_die_lose_no_record_and_no_job(tmp_path: Path) -> None:
    outcome = run.records(Wanted(SEED, 0.25, callers=2, only=BROKER_FAULTS), tmp_path, log.warning)
    assert outcome.violations == [], outcome.figures
    assert outcome.figures["acknowledged"], outcome.figures  # few, if the servers take long to elect a leader


def test_a_seed_gives_the_same_faults() -> None:
    def planned(seed: str) -> list[faults.Planned]:
        return list(islice(faults.schedule(seed, list(faults.FAULTS), run.PAUSE_SECONDS), 40))

    assert planned("1") == planned("1") != planned("2")
    assert {one.name for one in planned("1")[: len(faults.FAULTS)]} == set(faults.FAULTS)


@pytest.mark.parametrize("seed", range(20))
def test_a_history_accepts_what_a_store_may_do_and_nothing_else(seed: int) -> None:
    """A store that leaves some writes unanswered, and carries some of those out, at once or just before the next."""
    chance, history = Random(seed), History[str]("key")
    value: str | None = None
    revision, late = 0, list[str]()
    for number in range(200):
        wanted, named = f"{number}", history.revision
        if late and chance.random() < 0.5 and named == revision:
            value, revision = late.pop(), revision + 1  # a write that was on its way
        late = [] if named != revision else late
        happens, answered = chance.random() < 0.7, chance.random() < 0.7
        if named != revision:
            history.refused("Conflict")
        elif happens:
            value, revision, late = wanted, revision + 1, []
        elif not answered:
            late.append(wanted)
        if named + 1 == revision and value == wanted and answered:
            history.written(wanted, revision)
        elif not answered:
            history.lost_sight(wanted)
        history.read(value, revision)


def test_a_history_notices_lost_and_doubled_writes() -> None:
    history = History[str]("key")
    history.written("one", 1)
    for broken in (
        lambda: history.read(None, 0),  # lost
        lambda: history.read("zero", 1),  # another value
        lambda: history.read("one", 2),  # written again
        lambda: history.refused("Conflict"),  # at the revision that is current
        lambda: history.written("two", 1),  # a revision that was given before
    ):
        with pytest.raises(Violation, match="key"):
            broken()
    history.lost_sight("two")
    history.refused("Conflict")
    history.read("two", 2)
    with pytest.raises(Violation):
        history.read("one", 1)  # went back
