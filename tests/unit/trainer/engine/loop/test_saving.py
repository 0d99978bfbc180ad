"""When a fine-tuning saves: by its period, and by when the worker has stored earlier checkpoints."""

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from services.trainer.engine.classification.task import start
from services.trainer.engine.loop import fit
from services.trainer.engine.session import Meter, Session, Signals
from services.trainer.messages import Checkpoint, CheckpointDone, Message, SaveNow
from tests.unit.trainer.engine.shapes import task_for, tuning_recipe, write_snapshot

STEPS = 40  # of one second each


@dataclass
class Worker:
    """Receives a training's messages, with a clock on which each step takes a second, and replies after each step."""

    stored_in_seconds: float | None  # None: never
    save_at: float = float("inf")
    signals: Signals = field(default_factory=Signals)
    now: float = 0.0
    saved: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    folders: list[list[str]] = field(default_factory=list[list[str]])  # that exist at each checkpoint
    arrived: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])  # not stored yet

    def hear(self, message: Message) -> None:
        if isinstance(message, Checkpoint):
            self.saved.append((self.now, message.step))
            self.arrived.append((self.now, message.step))
            self.folders.append(sorted(path.name for path in Path(message.path).parent.iterdir()))

    def tick(self) -> None:
        self.now += 1
        if self.now == self.save_at:
            self.signals.put(SaveNow())
        if self.arrived and self.stored_in_seconds is not None:
            since, step = self.arrived[0]
            if self.now - since >= self.stored_in_seconds:
                self.arrived.pop(0)
                self.signals.put(CheckpointDone(step=step, seconds=self.now - since))


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs forty steps of a second each for a worker, with a checkpoint every other second."""
    step, planned = fit.step, fit._planned

    def run(worker: Worker) -> None:
        def ticking(*args):
            worker.tick()
            return step(*args)

        def forty(training):
            return msgspec.structs.replace(planned(training), total_steps=STEPS, validate_every=1000)

        monkeypatch.setattr(fit, "step", ticking)
        monkeypatch.setattr(fit, "_planned", forty)
        task = task_for(write_snapshot(tmp_path / "snapshot"), tuning_recipe(), checkpoint_seconds=2.0)
        session = Session(Meter(timedelta(seconds=300), lambda: worker.now), worker.hear, worker.signals)
        fit.fine_tune(task, session, start)

    return run


def _gaps(worker: Worker) -> list[float]:
    times = [time for time, _ in worker.saved]
    return [after - before for before, after in pairwise(times)]


def test_checkpoints_that_are_stored_at_once_are_saved_every_period(train):
    worker = Worker(stored_in_seconds=1.0)
    train(worker)
    assert len(worker.saved) > 10
    assert set(_gaps(worker)) == {2.0}


def test_checkpoints_that_take_longer_to_store_are_saved_less_often(train):
    worker = Worker(stored_in_seconds=5.0)
    train(worker)
    assert len(worker.saved) >= 3
    assert set(_gaps(worker)) == {10.0}


def test_a_checkpoint_that_is_never_stored_is_the_only_one_and_stays(train):
    worker = Worker(stored_in_seconds=None)
    train(worker)
    assert len(worker.saved) == 1


def test_a_requested_checkpoint_is_saved_while_another_is_being_stored(train):
    worker = Worker(stored_in_seconds=None, save_at=20.0)
    train(worker)
    assert len(worker.saved) == 2
    assert worker.saved[1][0] == 20.0
    assert [len(names) for names in worker.folders] == [1, 2]


def test_a_stored_checkpoint_s_folder_is_deleted_before_the_next(train):
    worker = Worker(stored_in_seconds=1.0)
    train(worker)
    assert len(worker.folders) > 10
    assert {len(names) for names in worker.folders} == {1}
