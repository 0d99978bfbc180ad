"""Killing any process of the suite with -9, in the middle of a registration or a training, loses nothing."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sightline.demo import digits
from sightline.local.stack import Stack
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.model_pb2 import Model
from sightline.v1.prediction_pb2 import AnalyzeImageResponse
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from sightline.v1.trial_pb2 import Trial
from tests.chaos import victims
from tests.chaos.suite import Caller, eventually, patiently, stack_in, write_digits
from tests.chaos.witness import Witness, audit

SEED = 20261123
WORKER, CHILD = "trainer-worker-1", "child"
TARGETS = (WORKER, CHILD, "trainer", "dataset", "nats")
MODEL, TRAIN, TEST = "models/survivor", "datasets/train", "datasets/test"
BUDGET_SECONDS = 120
RECOVERY_SECONDS = 60.0
SERVED_SECONDS = 30.0  # the predictor looks a model up again after `model_fresh_seconds`, and then loads its bundle

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow


class TrainingOver(Exception):
    """There is nothing left to kill in the middle of."""


def schedule() -> list[tuple[str, float]]:
    """Twelve kills: whom, and after how many seconds of work; each target at least twice."""
    chance = random.Random(SEED)
    targets = [*chance.sample(TARGETS, 5), *chance.sample(TARGETS, 5), *chance.sample(TARGETS, 2)]
    return [(target, chance.uniform(0.1, 1.5)) for target in targets]


@pytest.mark.timeout(400)
async def test_ten_and_more_kills_in_the_middle_of_a_training_lose_nothing(tmp_path: Path) -> None:
    train, test = write_digits(tmp_path / "images", per_digit=90)
    image = next(iter(test.truth))
    async with stack_in(tmp_path) as stack:
        caller = Caller(stack)
        for name, made in ((TRAIN, train), (TEST, test)):
            uri = await asyncio.to_thread(caller.upload, made.coco)
            await asyncio.to_thread(caller.register, name, uri)
            ready = await asyncio.to_thread(caller.await_dataset, name)
            assert Dataset.State.Name(ready.state) == "READY", ready.error
        await asyncio.to_thread(caller.train, MODEL, BUDGET_SECONDS, TRAIN, TEST)
        with Witness(stack.addresses, MODEL, TRAIN, image) as witness:
            kills: list[tuple[str, str, int]] = []
            with suppress(TrainingOver):  # on a machine that became faster; the first ten kills hit each target twice
                for target, pause in schedule():
                    kills.append(await strike(stack, caller, target, pause))
            await eventually(lambda: caller.model(MODEL).end_time.seconds, 150, "the end of the training")
        assert len(kills) >= 10, kills
        model, trials = caller.model(MODEL), caller.trials(MODEL)
        audit(model, trials, witness)
        assert not witness.faults, "\n".join(witness.faults)
        assert witness.answers["OK"] > 100
        await complete(caller, model, trials, kills)
        answer = await eventually(
            lambda: served(caller, image, model.model_version), SERVED_SECONDS, "the final bundle"
        )
        assert answer.custom_model_result.tags_result.values
        assert caller.dataset(TRAIN).state == Dataset.READY
        caller.close()


def served(caller: Caller, image: Path, version: str) -> AnalyzeImageResponse | None:
    """The predictor's answer, if it comes from this version of the model."""
    request = AnalyzeImageRequest(model_name=MODEL, image=image.read_bytes(), score_threshold=0)
    answer = patiently(lambda: caller.client.predictions.AnalyzeImage(request))
    return answer if answer.model_version == version else None


async def strike(stack: Stack, caller: Caller, target: str, pause: float) -> tuple[str, str, int]:
    """Kills the target while a trial or evaluation is at work, and waits until the work goes on.

    Returns the target, and the trial and attempt that the kill ended, if it is one that ends an attempt.
    """
    await eventually(lambda: at_work(stack, caller), RECOVERY_SECONDS, f"work to kill {target} in")
    await asyncio.sleep(pause)
    trial = await eventually(lambda: at_work(stack, caller), RECOVERY_SECONDS, f"work to kill {target} in")
    pid = victims.training_child(stack.pids[WORKER]) if target == CHILD else stack.pids[target]
    assert pid is not None
    victims.kill(pid)
    began = time.monotonic()
    ends_attempt = target in (WORKER, CHILD)

    def recovered() -> bool:
        if target != CHILD and stack.pids.get(target, pid) == pid:
            return False
        now = next(t for t in caller.trials(MODEL) if t.name == trial.name)
        again = not ends_attempt or now.attempts > trial.attempts
        further = now.cost.ToTimedelta() > trial.cost.ToTimedelta()
        return now.state not in (Trial.RUNNING, Trial.QUEUED) or (again and further)

    await eventually(recovered, RECOVERY_SECONDS, f"recovery after the death of {target}")
    log.info("%s, attempt %d of %s: on again in %.1f s", target, trial.attempts, trial.name, time.monotonic() - began)
    return (target, trial.name if ends_attempt else "", trial.attempts)


def at_work(stack: Stack, caller: Caller) -> Trial | None:
    """The trial that runs, in a child, and whose model is in TRAINING; TrainingOver."""
    if caller.model(MODEL).state not in (Model.NOT_STARTED, Model.TRAINING):
        raise TrainingOver
    running = [trial for trial in caller.trials(MODEL) if trial.state == Trial.RUNNING]
    worker = stack.pids.get(WORKER)
    return running[0] if running and worker and victims.training_child(worker) else None


async def complete(caller: Caller, model: Model, trials: list[Trial], kills: list[tuple[str, str, int]]) -> None:
    """Everything that a training leaves behind is there."""
    assert {target for target, _, _ in kills} == set(TARGETS)
    assert [trial.name for trial in trials] == [f"{MODEL}/trials/t{n:03d}" for n in range(len(trials))]
    attempts = {trial.name: trial.attempts for trial in trials}
    for target, trial, attempt in kills:
        assert not trial or attempts[trial] > attempt, f"{target} was killed in {trial}, attempt {attempt}, unnoticed"
    lost = [entry for entry in model.ledger if entry.reason == "workerLost"]
    assert lost, "no line of the ledger tells of work that was lost"
    assert not any(entry.charged for entry in lost)
    final = caller.evaluation(f"{MODEL}/evaluations/final")
    assert final.state == Evaluation.SUCCEEDED
    assert final.performance.image_count == caller.dataset(TEST).stats.image_count
    assert (
        model.performance.accuracy_top1 == final.performance.accuracy_top1 > 0.3
    )  # from random weights: not by chance


@pytest.mark.timeout(200)
async def test_an_ingest_worker_and_a_broker_killed_in_mid_chunk_leave_the_same_snapshot(tmp_path: Path) -> None:
    train, _ = digits.write(tmp_path / "images", per_digit=40, side=1200)  # large, so that each takes its time
    slowly = {
        "SIGHTLINE_PROGRESS_SECONDS": "0.02",
        "SIGHTLINE_IMAGES_IN_FLIGHT": "1",
        "SIGHTLINE_INGEST_JOBS": "1",
        "SIGHTLINE_INGEST_THREADS": "1",
        "SIGHTLINE_CHUNK_IMAGES": "110",
    }
    async with stack_in(tmp_path, 1, **slowly) as stack:
        caller = Caller(stack)
        uri = await asyncio.to_thread(caller.upload, train.coco)
        await asyncio.to_thread(caller.register, "datasets/undisturbed", uri)
        undisturbed = await asyncio.to_thread(caller.await_dataset, "datasets/undisturbed")
        await asyncio.to_thread(caller.register, "datasets/disturbed", uri)
        done = 0
        for target in ("nats", "dataset-worker", "nats"):
            at = done

            def further(at: int = at) -> int:
                dataset = caller.dataset("datasets/disturbed")
                assert dataset.state == Dataset.VALIDATING, "over too early"
                return dataset.progress.images_done if dataset.progress.images_done > at else 0

            done = await eventually(further, RECOVERY_SECONDS, "progress of the validation")
            victims.kill(stack.pids[target])
        disturbed = await asyncio.to_thread(caller.await_dataset, "datasets/disturbed")
        assert Dataset.State.Name(disturbed.state) == "READY", disturbed.error
        assert disturbed.snapshot_digest == undisturbed.snapshot_digest
        assert disturbed.stats == undisturbed.stats
        assert disturbed.finding_counts == undisturbed.finding_counts
        caller.close()
