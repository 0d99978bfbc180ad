"""A training child that trains nothing: it speaks the protocol, takes a moment, and leaves a trace of what it did.

Its state after each step is a hash of the one before, so whoever knows the seed knows the result of an uninterrupted
training: one that was resumed must end with the same bytes. What it finds wrong it writes into its trace.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

import msgspec

from services.kit.errors import Diverged
from services.trainer.engine.__main__ import _die_with_parent as die_with_parent
from services.trainer.framing import receive_signal, receive_task, send
from services.trainer.messages import (
    MANIFEST_FILE,
    Checkpoint,
    EvaluateTask,
    EvaluationResult,
    Failed,
    Progress,
    Ready,
    Result,
    SaveNow,
    TrainTask,
    has_checkpoints,
)
from services.trainer.performance import Interval, Performance, Source
from services.vision.card import CARD_FILE, WEIGHTS_FILE, WeightsSource
from services.vision.sealing import seal

HEAD_STEPS, STEPS = 3, 12
STEP_SECONDS = 0.05, 0.3  # shorter by the campaign's pace
BLOCK_BYTES = 100_000  # of a checkpoint and of weights, so that the store has something to do
FAILS, DIES = 0.05, 0.08  # shares of the trials whose training fails, and whose first child dies
SCORE = 0.5
REAL = "real"  # in the name of a model whose bundle a predictor can load


def state_after(steps: int, seed: int) -> str:
    """The state of a training after so many steps, as a digest."""
    state = f"{seed}"
    for step in range(steps):
        state = hashlib.sha256(f"{state}/{step}".encode()).hexdigest()
    return state


def weights_of(state: str) -> bytes:
    """The bytes that a state is stored as."""
    return Random(state).randbytes(BLOCK_BYTES)


def steps_of(task: TrainTask) -> int:
    """How long the training is."""
    return STEPS if has_checkpoints(task) else HEAD_STEPS


class Trace:
    """A line for every moment that matters, in a file of this process."""

    def __init__(self, task: TrainTask | EvaluateTask) -> None:
        self._name = task.trial if isinstance(task, TrainTask) else task.evaluation
        self._began = time.monotonic()
        self._path = Path(os.environ["CAMPAIGN_TRACES"]) / f"{os.getpid()}-{time.time_ns()}.jsonl"

    @property
    def used(self) -> timedelta:
        """Since the task arrived."""
        return timedelta(seconds=time.monotonic() - self._began)

    def write(self, **what: object) -> None:
        """Adds a line."""
        line = json.dumps({"name": self._name, "seconds": self.used.total_seconds(), **what})
        with self._path.open("a") as file:
            file.write(line + "\n")


class Training:
    """One task of training."""

    def __init__(self, task: TrainTask, pipe: BinaryIO) -> None:
        self.task, self.pipe, self.trace = task, pipe, Trace(task)
        self.step, self.saved, self.stored = 0, 0, threading.Event()
        self.save_now = threading.Event()
        self.stored.set()

    def follow(self, stdin: BinaryIO) -> None:
        """Acts on the worker's signals; ends the process with the pipe."""
        try:
            while (signal := receive_signal(stdin)) is not None:
                if isinstance(signal, SaveNow):
                    self.save_now.set()
                elif signal.step >= self.saved:
                    self.stored.set()
        finally:
            os._exit(1)

    def run(self) -> Result | Failed:
        """The training, from its checkpoint if there is one."""
        task, chance = self.task, Random(f"{self.task.trial}/{self.task.seed}")
        self._resume()
        self.trace.write(begins=self.step, data=_digest_of(Path(task.directory)))
        fails, dies = chance.random() < FAILS, chance.random() < DIES
        last_save = time.monotonic()
        while self.step < steps_of(task):
            time.sleep(chance.uniform(*STEP_SECONDS) / float(os.environ["CAMPAIGN_PACE"]))
            self.step += 1
            self.trace.write(step=self.step)
            send(self.pipe, Progress(fraction=self.step / steps_of(task), phase="train"))
            if dies and not task.frugal and self.step == 2 and not task.checkpoint_path:
                os._exit(3)
            due = time.monotonic() - last_save >= task.checkpoint_seconds and self.stored.is_set()
            if has_checkpoints(task) and (due or self.save_now.is_set()):
                self._save()
                last_save = time.monotonic()
        if fails and REAL not in task.trial:
            self.trace.write(fails=True)
            return Failed(
                failure=Diverged(trial=task.trial, loss="nan", step=3, learning_rate=0.1, retries=3).failure()
            )
        return self._result()

    def _resume(self) -> None:
        if not self.task.checkpoint_path:
            return
        folder = Path(self.task.checkpoint_path)
        kept = json.loads((folder / "state.json").read_text())
        expected = state_after(kept["step"], self.task.seed)
        if kept["state"] != expected or (folder / "block").read_bytes() != weights_of(expected):
            self.trace.write(problem=f"the checkpoint of step {kept['step']} is not what was saved")
        self.step = self.saved = kept["step"]

    def _save(self) -> None:
        self.save_now.clear()
        folder = Path(self.task.output_directory) / f"step-{self.step}"
        folder.mkdir(exist_ok=True)
        state = state_after(self.step, self.task.seed)
        (folder / "state.json").write_text(json.dumps({"step": self.step, "state": state}))
        (folder / "block").write_bytes(weights_of(state))
        self.saved = self.step
        self.stored.clear()
        send(self.pipe, Checkpoint(path=str(folder), step=self.step, used=self.trace.used))

    def _result(self) -> Result:
        output, template = Path(self.task.output_directory), Path(os.environ["CAMPAIGN_TEMPLATE"])
        bundle = output / "bundle"
        bundle.mkdir(exist_ok=True)
        for file in template.iterdir():
            if REAL in self.task.trial or file.name == CARD_FILE:
                (bundle / file.name).write_bytes(file.read_bytes())
        if REAL not in self.task.trial:
            (bundle / WEIGHTS_FILE).write_bytes(weights_of(state_after(self.step, self.task.seed)))
        digest, used = seal(bundle), self.trace.used
        self.trace.write(result=digest, seconds=used.total_seconds())
        measured = Performance(source=Source.HOLD_OUT, image_count=4, accuracy_top1=SCORE)
        return Result(
            bundle_directory=str(bundle),
            selection_score=SCORE,
            standard_error=0.1,
            selection_log_loss=0.7,
            selection_interval=Interval(SCORE - 0.2, SCORE + 0.2),
            predictions_path=str(_predictions(output)),
            performance=measured,
            used=used,
            stop_reason="converged",
            weights_source=WeightsSource.RANDOM,
            resolution=64,
            image_count=24,
            category_count=2,
        )


def evaluate(task: EvaluateTask, pipe: BinaryIO) -> EvaluationResult:
    """A measurement that is the same for every bundle."""
    trace = Trace(task)
    trace.write(begins=0, data=_digest_of(Path(task.directory)))
    send(pipe, Progress(fraction=0.5, phase="evaluate"))
    time.sleep(STEP_SECONDS[1])
    measured = Performance(source=Source.TEST_DATASET, image_count=4, accuracy_top1=SCORE)
    trace.write(result="measured", seconds=trace.used.total_seconds())
    predictions = _predictions(Path(task.output_directory))
    return EvaluationResult(performance=measured, used=trace.used, predictions_path=str(predictions))


def _predictions(output: Path) -> Path:
    """Four images, two of them right, in the form of `services.trainer.predictions`, without importing numpy."""
    columns: dict[str, Any] = {
        "type": "classifier",
        "categories": ("cat", "dog"),
        "image_ids": (1, 2, 3, 4),
        "labels": (0, 0, 1, 1),
        "predicted": (0, 1, 1, 0),
        "correct": (True, False, True, False),
        "log_losses": (0.1, 1.5, 0.1, 1.5),
    }
    path = output / "predictions.msgpack"
    path.write_bytes(msgspec.msgpack.encode(columns))
    return path


def _digest_of(folder: Path) -> str:
    """The digest of a snapshot's images and annotations: its manifest names one of the datasets that have these."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Runs one task, as `services.trainer.engine` does."""
    die_with_parent()
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    send(pipe, Ready(device="cpu", import_seconds=0.1))
    stdin = os.fdopen(0, "rb", closefd=False)
    task = receive_task(stdin)
    if isinstance(task, TrainTask):
        training = Training(task, pipe)
        threading.Thread(target=training.follow, args=(stdin,), daemon=True).start()
        send(pipe, training.run())
    elif isinstance(task, EvaluateTask):
        send(pipe, evaluate(task, pipe))
    return 0


if __name__ == "__main__":
    sys.exit(main())
