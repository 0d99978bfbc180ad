"""Killing any process of the suite with SIGKILL during a registration or a training loses nothing."""

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
from tests.chaos.observer import Observer, audit
from tests.chaos.suite import Caller, eventually, patiently, stack_in, write_digits
from tests.support import processes

SEED = 20261123
WORKER, CHILD = "trainer-worker-1", "child"
TARGETS = (WORKER, CHILD, "trainer", "dataset", "nats")
MODEL, TRAIN, TEST = "models/survivor", "datasets/train", "datasets/test"
BUDGET_SECONDS = 180
RECOVERY_SECONDS = 60.0
SERVED_SECONDS = 30.0  # until the predictor has looked the model up again and loaded its bundle

log = logging.getLogger(__name__)
pytestmark = pytest.mark.long  # the campaign of `test_faults` kills processes too, `test_dataset_resume` ingest workers


class TrainingEnded(Exception):
    """The training ended before the next kill."""


def schedule() -> list[tuple[str, float]]:
    """Twelve kills: the target, and the seconds of work before it; each target at least twice."""
    chance = random.Random(SEED)
    targets = [*chance.sample(TARGETS, 5), *chance.sample(TARGETS, 5), *chance.sample(TARGETS, 2)]
    return [(target, chance.uniform(0.1, 1.5)) for target in targets]


@pytest.mark.timeout(400)
async def test_ten_or_more_kills_during_a_training_lose_nothing(tmp_path: Path) -> None:
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
        with Observer(stack.addresses, MODEL, TRAIN, image) as observer:
            kills: list[tuple[str, str, int]] = []
            with suppress(TrainingEnded):  # on a faster machine; the first ten kills hit each target twice
                for target, pause in schedule():
                    kills.append(await kill_during_work(stack, caller, target, pause))
            await eventually(lambda: caller.model(MODEL).end_time.seconds, 150, "the end of the training")
        assert len(kills) >= 10, kills
        model, trials = caller.model(MODEL), caller.trials(MODEL)
        audit(model, trials, observer)
        assert not observer.faults, "\n".join(observer.faults)
        assert observer.answers["OK"] > 100
        await assert_complete(caller, model, trials, kills)
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


async def kill_during_work(stack: Stack, caller: Caller, target: str, pause: float) -> tuple[str, str, int]:
    """Kills the target while a trial is running, and waits until work continues.

    Returns the target, and the trial and attempt that the kill ended, if it ended one.
    """
    await eventually(lambda: running_trial(stack, caller), RECOVERY_SECONDS, f"running work before killing {target}")
    await asyncio.sleep(pause)
    trial = await eventually(
        lambda: running_trial(stack, caller), RECOVERY_SECONDS, f"running work before killing {target}"
    )
    pid = processes.training_child(stack.pids[WORKER]) if target == CHILD else stack.pids[target]
    assert pid is not None
    processes.kill(pid)
    began = time.monotonic()
    ends_attempt = target in (WORKER, CHILD)

    def recovered() -> bool:
        if target != CHILD and stack.pids.get(target, pid) == pid:
            return False
        now = next(t for t in caller.trials(MODEL) if t.name == trial.name)
        again = not ends_attempt or now.attempts > trial.attempts
        progressed = now.cost.ToTimedelta() > trial.cost.ToTimedelta()
        return now.state not in (Trial.RUNNING, Trial.QUEUED) or (again and progressed)

    await eventually(recovered, RECOVERY_SECONDS, f"recovery after the death of {target}")
    log.info("%s, attempt %d of %s: recovered in %.1f s", target, trial.attempts, trial.name, time.monotonic() - began)
    return (target, trial.name if ends_attempt else "", trial.attempts)


def running_trial(stack: Stack, caller: Caller) -> Trial | None:
    """The trial that a child is running; TrainingEnded once the model has ended."""
    if caller.model(MODEL).state not in (Model.NOT_STARTED, Model.TRAINING):
        raise TrainingEnded
    running = [trial for trial in caller.trials(MODEL) if trial.state == Trial.RUNNING]
    worker = stack.pids.get(WORKER)
    return running[0] if running and worker and processes.training_child(worker) else None


async def assert_complete(caller: Caller, model: Model, trials: list[Trial], kills: list[tuple[str, str, int]]) -> None:
    """Asserts that all results of the training exist."""
    assert {target for target, _, _ in kills} == set(TARGETS)
    assert [trial.name for trial in trials] == [f"{MODEL}/trials/t{n:03d}" for n in range(len(trials))]
    attempts = {trial.name: trial.attempts for trial in trials}
    for target, trial, attempt in kills:
        assert not trial or attempts[trial] > attempt, (
            f"{target} was killed in {trial}, attempt {attempt}, without effect"
        )
    lost = [entry for entry in model.ledger if entry.reason == "workerLost"]
    assert lost, "no ledger entry for lost work"
    assert not any(entry.charged for entry in lost)
    final = caller.evaluation(f"{MODEL}/evaluations/final")
    assert final.state == Evaluation.SUCCEEDED
    assert final.performance.image_count == caller.dataset(TEST).stats.image_count
    assert (
        model.performance.accuracy_top1 == final.performance.accuracy_top1 > 0.3
    )  # better than chance, from random weights


@pytest.mark.timeout(200)
async def test_killing_an_ingest_worker_and_the_broker_during_a_chunk_gives_the_same_snapshot(tmp_path: Path) -> None:
    train, _ = digits.write(tmp_path / "images", per_digit=40, side=1200)  # large, so that each takes a while
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

            def progressed(at: int = at) -> int:
                dataset = caller.dataset("datasets/disturbed")
                assert dataset.state == Dataset.VALIDATING, "validation ended too early"
                return dataset.progress.images_done if dataset.progress.images_done > at else 0

            done = await eventually(progressed, RECOVERY_SECONDS, "progress of the validation")
            processes.kill(stack.pids[target])
        disturbed = await asyncio.to_thread(caller.await_dataset, "datasets/disturbed")
        assert Dataset.State.Name(disturbed.state) == "READY", disturbed.error
        assert disturbed.snapshot_digest == undisturbed.snapshot_digest
        assert disturbed.stats == undisturbed.stats
        assert disturbed.finding_counts == undisturbed.finding_counts
        caller.close()
