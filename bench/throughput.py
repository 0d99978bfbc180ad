"""How fast the engine trains and reads features, against bare loops over the same network, images and sizes.

The engine's time runs from its first planned step to the end of its last; meanwhile it augments images, averages
weights, offers results and writes checkpoints. The bare loops only compute, on inputs that are already in memory.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.data import open_images
from services.trainer.engine.loop import fit
from services.trainer.engine.loop.numerics import Numerics
from services.trainer.engine.loop.task import Batch, BatchRequest
from services.trainer.engine.loop.training import Start, Training
from services.trainer.engine.pretrained import load_backbones
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Message, Result, TrainTask
from services.vision.backbones import embed

READY_BATCHES = 6  # through which a bare loop cycles

Starter = Callable[[TrainTask, Session], Start]


class Engine(NamedTuple):
    """What a fine-tuning by the engine was like."""

    pace: float  # images per second, from the first planned step to the end of the last
    numerics: Numerics
    result: Result


def engine_pace(task: TrainTask, start: Starter, send: Callable[[Message], None] = lambda _: None) -> Engine:
    """Runs a whole fine-tuning."""
    real, times, numerics = fit.step, list[tuple[float, float]](), list[Numerics]()

    def timed(training: Training, *rest: object) -> float:
        began = time.perf_counter()
        loss = real(training, *rest)  # pyright: ignore[reportArgumentType] - passed through
        times.append((began, time.perf_counter()))
        numerics.append(training.vision_task.numerics)
        return loss

    with patch.object(fit, "step", timed):
        result = fit.fine_tune(task, Session(Meter(task.allowance), send), start)
    planned = times[-result.steps :]  # before these, steps are only measured
    return Engine(len(planned) * task.recipe.batch_size / (planned[-1][1] - planned[0][0]), numerics[-1], result)


def bare_pace(task: TrainTask, start: Starter, steps: int, numerics: Numerics) -> float:
    """Images per second of steps alone, with the same network, precision, layout and optimizer."""
    session = Session(Meter(task.allowance), lambda _: None)
    training = Training.begin(task, session, start(task, session))
    training.compute_in(numerics)
    vision_task, network, optimizer = training.vision_task, training.state.network, training.state.optimizer
    rows, size = training.partition.other_folds, training.batch_size
    requests = [BatchRequest(0, np.roll(rows, -number * size)[:size]) for number in range(READY_BATCHES)]
    ready: Iterator[Batch] = itertools.cycle(list(vision_task.batches(requests)))
    vision_task.start_training(network)
    began = 0.0
    for number in range(-fit.PROBES, steps):
        if number == 0:
            synchronise()
            began = time.perf_counter()
        inputs, truths = next(ready)
        optimizer.zero_grad(set_to_none=True)
        vision_task.loss(network, inputs, truths).mean().backward()
        optimizer.step()
    synchronise()
    return steps * size / (time.perf_counter() - began)


def feature_pace(task: TrainTask) -> float:
    """Images per second of the engine's extraction: decoding, preparing, forward pass, cache."""
    extractor = _extractor(task)
    began = time.perf_counter()
    extractor.run()
    return len(extractor.images.samples) / (time.perf_counter() - began)


def bare_feature_pace(task: TrainTask) -> float:
    """Images per second of the forward pass alone, in the engine's batches, from memory to memory."""
    extractor = _extractor(task)
    network, size = fused(extractor.backbones[0].network), extractor.limit.most
    count = len(extractor.images.samples)
    side = extractor.backbones[0].rule.size
    inputs = torch.rand(size, 3, side, side)
    embed(network, inputs.to(task.device)).cpu()
    began = time.perf_counter()
    for _ in range(-(-count // size)):
        embed(network, inputs.to(task.device)).float().cpu()
    return -(-count // size) * size / (time.perf_counter() - began)


def _extractor(task: TrainTask) -> Extractor:
    images = open_images(Path(task.directory), task.dataset)
    backbones = load_backbones(task, images)
    for backbone in backbones:
        backbone.network.to(task.device).eval()
    return Extractor(task, Session(Meter(task.allowance), lambda _: None), images, backbones, task.recipe.views)


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
