"""One step of a fine-tuning: a batch, in micro-batches that fit into memory, on every process of the group."""

import numpy as np
import torch
from torch import Tensor, nn

from services.kit.errors import OutOfMemory
from services.trainer.engine.loop.task import Truths
from services.trainer.engine.loop.together import Step
from services.trainer.engine.loop.training import Training
from services.vision.memory import empty_cache, is_out_of_memory

CLIP_NORM = 5.0


def step(training: Training, inputs: Tensor, truths: Truths, number: int) -> float:
    """One update; returns the mean loss before it. If that is not finite, no weight changes.

    In a group, inputs and truths are the leader's share. If a micro-batch does not fit into memory, its size is halved
    permanently; raises OutOfMemory if a single image does not fit.
    """
    state = training.state
    while True:
        training.vision_task.start_training(state.network)
        training.together.announce_step(state.network, number, training.micro_batch)
        found = summed(training, inputs, truths, number)
        if found is not None:
            break
        if training.micro_batch == 1:
            raise OutOfMemory(trial=training.task.trial, batch_size=1)
        training.micro_batch //= 2
    total, objects, images = found
    divisor = max(objects, images, 1.0)
    if np.isfinite(total):
        trained = [p for p in state.network.parameters() if p.requires_grad]
        for gradient in (p.grad for p in trained if p.grad is not None):
            gradient.div_(divisor)
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        state.optimizer.step()
    return total / divisor


def follow_step(training: Training, order: Step, inputs: Tensor | None, truths: Truths) -> None:
    """A follower's part of a step, on its share, which may be empty."""
    training.micro_batch = order.micro_batch
    summed(training, inputs, truths, order.number)


def summed(training: Training, inputs: Tensor | None, truths: Truths, number: int) -> tuple[float, float, float] | None:
    """Sums loss, objects and images over the group, and gradients into the leader's; None if memory was short."""
    state, group = training.state, training.session.group
    torch.manual_seed(((training.task.seed << 32) + number) & 0x7FFF_FFFF_FFFF_FFFF)  # for stochastic depth
    state.optimizer.zero_grad(set_to_none=True)
    own = (0.0, 0.0, 0.0) if inputs is None else _attempted(training, inputs, truths)
    if group.size > 1:
        sums = torch.tensor([*(own or (0.0, 0.0, 0.0)), float(own is None)], dtype=torch.float64)
        group.total(sums)
        own = None if sums[3] else (float(sums[0]), float(sums[1]), float(sums[2]))
    if own is None:
        state.optimizer.zero_grad(set_to_none=True)
        empty_cache()
        return None
    if group.size > 1:
        _add_up_gradients(training)
    return own


def _attempted(training: Training, inputs: Tensor, truths: Truths) -> tuple[float, float, float] | None:
    try:
        return _backward(training, inputs, truths)
    except (MemoryError, RuntimeError) as fault:
        if not is_out_of_memory(fault):
            raise
        return None


def _backward(training: Training, inputs: Tensor, truths: Truths) -> tuple[float, float, float]:
    """Adds up the gradients of the summed loss; returns that, and its objects and images."""
    vision_task, network, size = training.vision_task, training.state.network, training.micro_batch
    total, objects = 0.0, 0
    for start in range(0, len(inputs), size):
        loss = vision_task.loss(network, inputs[start : start + size], truths[start : start + size])
        loss.total.backward()
        total += float(loss.total.detach())
        objects += loss.objects
    return total, float(objects), float(len(inputs))


def _add_up_gradients(training: Training) -> None:
    trained = [p for p in training.state.network.parameters() if p.requires_grad]
    zeros = (torch.zeros_like(p) if p.grad is None else p.grad for p in trained)
    flat = torch.cat([gradient.reshape(-1) for gradient in zeros])
    training.session.group.add_up(flat)
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))
