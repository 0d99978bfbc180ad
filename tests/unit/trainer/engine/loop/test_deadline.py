"""Fine-tunings on machines that slow down, with a clock that the test controls: a result comes in time."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch

from services.kit.errors import NotEnoughBudget
from services.trainer.engine.classification import result as finish
from services.trainer.engine.classification.batches import Batches
from services.trainer.engine.loop import checkpoint, delivery, fit
from services.trainer.engine.loop.timing import Pace, Part
from services.trainer.engine.run import train
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Checkpoint, Message, Offer, Progress, Result
from services.trainer.recipe import Split
from services.vision import bundle
from tests.unit.trainer.engine.shapes import task_for, tuning_recipe, write_snapshot

STEP, PREDICTED_BATCH, DELIVERY, SAVE = 0.5, 0.3, 1.0, 0.2  # seconds on an idle machine


@dataclass
class Machine:
    """Work takes its nominal time times `slowness`, which changes after a number of steps or deliveries."""

    slowness: float = 1.0
    slower_after: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    now: float = 0.0
    done: dict[str, int] = field(default_factory=dict[str, int])

    def work(self, what: str, seconds: float) -> None:
        self.now += self.slowness * seconds
        self.done[what] = self.done.get(what, 0) + 1
        when, slowness = self.slower_after.get(what, (0, 0.0))
        if self.done[what] == when:
            self.slowness = slowness

    def session(self, allowance: float, send: Callable[[Message], None]) -> Session:
        return Session(Meter(timedelta(seconds=allowance), lambda: self.now), send)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine on which the test's trainings run."""
    torch.set_num_threads(1)
    made = Machine()
    step, plain, write, save = fit.step, Batches.plain, finish.finish, checkpoint.save

    def slow_step(*args):
        made.work("step", STEP)
        return step(*args)

    def slow_plain(self, rows, size) -> Iterator:
        for batch in plain(self, rows, size):
            made.work("batch", PREDICTED_BATCH)
            yield batch

    def slow_finish(*args):
        made.work("finish", DELIVERY)
        return write(*args)

    def slow_save(*args):
        made.work("save", SAVE)
        return save(*args)

    monkeypatch.setattr(fit, "step", slow_step)
    monkeypatch.setattr(Batches, "plain", slow_plain)
    monkeypatch.setattr(finish, "finish", slow_finish)
    monkeypatch.setattr(checkpoint, "save", slow_save)
    return made


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "snapshot", per_category=20)


ENDLESS = tuning_recipe(max_epochs=10_000, min_epochs=1, patience=10_000)
HELD_OUT = Split(holdout_fraction=0.2)


def _sound(result: Result, allowance: float) -> None:
    assert result.used <= timedelta(seconds=allowance)
    assert bundle.load(Path(result.bundle_directory)).card.metrics_source == "HOLD_OUT"
    assert Path(result.predictions_path).exists()


def test_a_steady_machine_uses_most_of_the_allowance_and_ends_by_plan(machine, snapshot):
    result = train(task_for(snapshot, ENDLESS, split=HELD_OUT), machine.session(40, lambda _: None))
    _sound(result, 40)
    assert result.stop_reason == "converged"
    assert result.used > timedelta(seconds=28)


@pytest.mark.parametrize(("when", "slowness"), [(6, 2.0), (6, 5.0), (15, 5.0), (15, 10.0), (25, 5.0), (33, 5.0)])
def test_a_sudden_slowdown_of_steps_ends_the_training_early(machine, snapshot, when, slowness):
    machine.slower_after = {"step": (when, slowness)}
    result = train(task_for(snapshot, ENDLESS, split=HELD_OUT), machine.session(40, lambda _: None))
    _sound(result, 40)
    assert result.steps >= when - fit.PROBES


@pytest.mark.parametrize(("what", "when"), [("batch", 6), ("batch", 9), ("finish", 1), ("finish", 2), ("save", 1)])
def test_a_sudden_slowdown_of_predictions_deliveries_or_checkpoints_does_too(machine, snapshot, what, when):
    machine.slower_after = {what: (when, 5.0)}
    task = task_for(snapshot, ENDLESS, split=HELD_OUT, checkpoint_seconds=3.0)
    _sound(train(task, machine.session(60, lambda _: None)), 60)


def test_a_hiccup_does_not_end_the_training(machine, snapshot, monkeypatch):
    machine.slower_after = {"step": (20, 8.0)}
    session = machine.session(60, lambda _: None)
    original = machine.work

    def recovers(what: str, seconds: float) -> None:
        original(what, seconds)
        if machine.done.get("step") == 21:
            machine.slowness = 1.0

    monkeypatch.setattr(machine, "work", recovers)
    assert train(task_for(snapshot, ENDLESS, split=HELD_OUT), session).steps > 40


class _Killed(BaseException):
    """Simulates kill -9."""


@pytest.mark.parametrize("died_at", [8, 20, 35])
@pytest.mark.parametrize("slowness", [1.0, 3.0])
def test_a_training_that_resumes_on_a_slower_machine_delivers_in_what_is_left(
    machine, snapshot, tmp_path, died_at, slowness
):
    task = task_for(snapshot, ENDLESS, split=HELD_OUT, checkpoint_seconds=2.0)
    kept: list[Checkpoint] = []

    def die(message: Message) -> None:
        if isinstance(message, Checkpoint):
            kept.append(message)
            if message.step >= died_at:
                raise _Killed

    with pytest.raises(_Killed):
        train(task, machine.session(40, die))
    machine.slowness = slowness
    left = 40 - kept[-1].used.total_seconds()
    (tmp_path / "again").mkdir()
    again = msgspec.structs.replace(
        task, checkpoint_path=kept[-1].path, output_directory=str(tmp_path / "again"), allowance=timedelta(seconds=left)
    )
    said: list[Message] = []
    result = train(again, machine.session(left, said.append))
    _sound(result, left)
    assert result.steps >= kept[-1].step
    assert isinstance(next(message for message in said if not isinstance(message, Progress)), Offer)  # before any step


def test_after_an_offer_there_always_is_a_result(machine, snapshot):
    said: list[Message] = []
    task = task_for(snapshot, ENDLESS, split=HELD_OUT)
    machine.slower_after = {"step": (14, 100.0)}
    result = train(task, machine.session(40, said.append))  # a single step exceeds the allowance
    offers = [message.result for message in said if isinstance(message, Offer)]
    assert result.bundle_directory == offers[-1].bundle_directory
    assert result.stop_reason == "allowance"
    assert all(offer.used <= timedelta(seconds=40) for offer in offers)
    assert offers[-1].selection_score == result.selection_score


@pytest.mark.parametrize(("when", "slowness"), [(fit.PROBES + 1, 100.0), (2 * fit.PROBES, 10.0)])
def test_without_a_measured_candidate_in_time_the_budget_is_not_enough(machine, snapshot, when, slowness):
    machine.slower_after = {"step": (when, slowness)}
    with pytest.raises(NotEnoughBudget) as refused:
        train(task_for(snapshot, ENDLESS, split=HELD_OUT), machine.session(40, lambda _: None))
    assert float(refused.value.metadata["minimum_seconds"]) > 40


def test_offers_take_a_small_share_of_the_time(machine, snapshot):
    said: list[Message] = []
    train(task_for(snapshot, ENDLESS, split=HELD_OUT), machine.session(80, said.append))
    times = [message.result.used.total_seconds() for message in said if isinstance(message, Offer)]
    assert len(times) >= 2
    assert all(later - earlier >= DELIVERY / delivery.RENEWAL_SHARE for earlier, later in pairwise(times[:-1]))


def test_the_pace_follows_the_machine():
    now = [0.0]
    pace = Pace(Meter(timedelta(seconds=100), lambda: now[0]))
    assert pace.expected(Part.DELIVER) == 0
    for _ in range(8):
        pace.stepped(1.0)
    with pace.timed(Part.DELIVER):
        now[0] += 2.0
    with pace.timed(Part.PREDICT, 10):
        now[0] += 2.0
    assert (pace.expected(Part.DELIVER), pace.expected(Part.PREDICT)) == (2.0, 0.2)
    pace.stepped(9.0)
    assert pace.expected(Part.DELIVER) == 2.0  # one hiccup
    for _ in range(4):
        pace.stepped(3.0)
    assert pace.expected(Part.DELIVER) == 6.0
    with suppress(ValueError), pace.timed(Part.DELIVER):
        now[0] += 50.0
        raise ValueError
    assert pace.expected(Part.DELIVER) == 6.0  # an interrupted part is not recorded
