"""One step of a fine-tuning: a batch, in micro-batches that fit into memory."""

import numpy as np
import torch
from torch import Tensor, nn

from services.kit.errors import OutOfMemory
from services.trainer.engine.loop.task import Truths
from services.trainer.engine.loop.training import Training

CLIP_NORM = 5.0


def step(training: Training, inputs: Tensor, truths: Truths, number: int) -> float:
    """One update; returns the mean loss before it. If that is not finite, no weight changes.

    If a micro-batch does not fit into memory, its size is halved permanently; raises OutOfMemory if a single image does
    not fit.
    """
    state = training.state
    while True:
        try:
            torch.manual_seed(((training.task.seed << 32) + number) & 0x7FFF_FFFF_FFFF_FFFF)  # for stochastic depth
            state.optimizer.zero_grad(set_to_none=True)
            loss = _backward(training, inputs, truths)
            break
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as fault:
            if not _is_out_of_memory(fault):
                raise
            if training.micro_batch == 1:
                raise OutOfMemory(trial=training.task.trial, batch_size=1) from fault
            training.micro_batch //= 2
    if np.isfinite(loss):
        trained = [p for p in state.network.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        state.optimizer.step()
    return loss


def _backward(training: Training, inputs: Tensor, truths: Truths) -> float:
    vision_task, network, size = training.vision_task, training.state.network, training.micro_batch
    vision_task.start_training(network)
    total = 0.0
    for start in range(0, len(inputs), size):
        piece = inputs[start : start + size]
        share = vision_task.loss(network, piece, truths[start : start + size]) * (len(piece) / len(inputs))
        share.backward()
        total += float(share.detach())
    return total


def _is_out_of_memory(fault: Exception) -> bool:
    """On a CPU, torch raises a plain RuntimeError."""
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(fault).lower() for words in ("out of memory", "not enough memory", "can't allocate memory"))
