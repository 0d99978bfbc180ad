"""Rung 1: fine-tuning from the head that a linear fit gives (LP-FT, Kumar et al., 2022), or from random weights.

It trains on all folds but the first and is measured on the first, with the moving average of its weights. How many
steps fit is measured before the first one; the schedule is then fixed, so that a resumed training follows it too.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from services.kit.errors import Diverged, NotEnoughBudget, OutOfMemory
from services.trainer.engine import state as checkpoints
from services.trainer.engine.batches import Batches, augmentation
from services.trainer.engine.data import Images, Indices, open_images, require_trainable
from services.trainer.engine.features import Extractor
from services.trainer.engine.finish import Finished, finish
from services.trainer.engine.linear import Floats, log_losses
from services.trainer.engine.measure import calibrated_across, fit_temperature
from services.trainer.engine.rung0 import fit_head, readable, sound_rows
from services.trainer.engine.session import Session
from services.trainer.engine.split import Parts, divide
from services.trainer.engine.state import Plan, Position, State
from services.trainer.engine.trunks import Trunk, load_trunks, origin
from services.trainer.protocol import Checkpoint, Depth, Result, Started, Throughput, TrainTask
from services.vision.backbones import Network
from services.vision.classifier import ClassifierNetwork

PLANNED_SHARE = 0.85  # of the allowance: the rest is for a machine that slows down
MAX_RETRIES = 3
CLIP_NORM = 5.0
FROZEN_NORM_BELOW = 5_000  # training images: batch statistics of fewer are worse than the pretrained ones
EVALUATION_BATCH = 16
TRAIN_LOW, TRAIN_HIGH = 0.1, 0.95  # of the progress bar
LAST_STAGES = 2


@dataclass(slots=True)
class Training:
    """One fine-tuning's parts."""

    task: TrainTask
    session: Session
    images: Images
    trunk: Trunk
    parts: Parts
    batches: Batches
    state: State
    frozen_norm: bool
    micro_batch: int

    @property
    def batch_size(self) -> int:
        """The effective one."""
        return min(self.task.recipe.batch_size, len(self.parts.other_folds))


def fine_tune(task: TrainTask, session: Session) -> Result:
    """The whole task; ends by itself before the allowance does, with the weights that it has then."""
    if task.checkpoint_path and not checkpoints.usable(Path(task.checkpoint_path), task.recipe):
        task = msgspec.structs.replace(task, checkpoint_path=None)  # begins anew
    training = _prepared(task, session)
    if task.checkpoint_path:
        plan = checkpoints.restore(Path(task.checkpoint_path), training.state)
    else:
        plan = _planned(training)
    reason = _fit(training, plan)
    return _shipped(training, plan, reason)


def _fit(training: Training, plan: Plan) -> str:
    """The training loop; returns why it ended."""
    task, session, state = training.task, training.session, training.state
    recipe, position = task.recipe, state.position
    if position.step == 0 and recipe.patience:
        _validate(training)  # the linear head is a candidate: fine-tuning never ends below where it began
    good = (state.pack(), copy.copy(position))
    saved_at = session.meter.used()
    stream = training.batches.training(_jobs(training, plan, position.step))
    while position.step < plan.total_steps:
        if session.meter.remaining() < 1.3 * plan.finish_seconds + 2 * plan.step_seconds:
            return "allowance"
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * position.rate_factor * plan.rate(position.step)
        loss = _step(training, *next(stream), position.step)
        if not np.isfinite(loss):
            if position.retries >= MAX_RETRIES:
                raise Diverged(
                    trial=task.trial,
                    loss=loss,
                    step=position.step,
                    learning_rate=recipe.learning_rate * position.rate_factor,
                    retries=position.retries,
                )
            retries, factor = position.retries + 1, position.rate_factor / 2
            state.unpack(good[0])
            position = state.position = copy.copy(good[1])
            position.retries, position.rate_factor = retries, factor
            stream = training.batches.training(_jobs(training, plan, position.step))
            continue
        position.step += 1
        state.average_in(recipe.average_decay)
        session.progress("train", position.step / plan.total_steps, TRAIN_LOW, TRAIN_HIGH)
        epoch, inside = divmod(position.step, plan.steps_per_epoch)
        if inside == 0 and epoch % plan.validate_every == 0 and position.step < plan.total_steps:
            accuracy = _validate(training)
            done = position.step / plan.total_steps
            session.progress("train", done, TRAIN_LOW, TRAIN_HIGH, "accuracy_top1", accuracy)
            if recipe.patience and position.stale_epochs >= recipe.patience:
                return "converged"
        if (since := session.meter.used() - saved_at) >= task.checkpoint_seconds and position.step < plan.total_steps:
            good = (state.pack(), copy.copy(position))
            path = checkpoints.save(
                Path(task.output_directory) / "checkpoints", state, plan, recipe, training.images.unreadable
            )
            saved_at = session.meter.used()
            session.send(
                Checkpoint(path=str(path), step=position.step, seconds_used=saved_at, seconds_since_last=since)
            )
    return "converged"


def _step(training: Training, inputs: Tensor, labels: Tensor, number: int) -> float:
    """One update of the effective batch, in micro-batches that fit; the mean loss before it."""
    state = training.state
    while True:
        try:
            torch.manual_seed(((training.task.seed << 32) + number) & 0x7FFF_FFFF_FFFF_FFFF)  # for stochastic depth
            state.optimizer.zero_grad(set_to_none=True)
            loss = _backward(training, inputs, labels)
            break
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as fault:
            if not _is_out_of_memory(fault):
                raise
            if training.micro_batch == 1:
                raise OutOfMemory(trial=training.task.trial, batch_size=1) from fault
            training.micro_batch = max(1, training.micro_batch // 2)
    if np.isfinite(loss):
        trained = [p for p in state.network.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        state.optimizer.step()
    return loss


def _is_out_of_memory(fault: Exception) -> bool:
    """On a CPU torch says it with a plain RuntimeError."""
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(fault).lower() for words in ("out of memory", "not enough memory", "can't allocate memory"))


def _backward(training: Training, inputs: Tensor, labels: Tensor) -> float:
    network, device = training.state.network, training.task.device
    _train_mode(network, frozen_norm=training.frozen_norm)
    total = 0.0
    for start in range(0, len(labels), training.micro_batch):
        piece, truth = inputs[start : start + training.micro_batch], labels[start : start + training.micro_batch]
        logits = network(piece.to(device, memory_format=torch.channels_last))
        smoothing = training.task.recipe.label_smoothing
        loss = nn.functional.cross_entropy(logits, truth.to(device), label_smoothing=smoothing)
        share = loss * (len(truth) / len(labels))
        share.backward()
        total += float(share.detach())
    return total


def _train_mode(network: Network, *, frozen_norm: bool) -> None:
    network.train()
    if frozen_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def _validate(training: Training) -> float:
    """Measures the average on the first fold and remembers the best; its accuracy."""
    state, rows = training.state, training.parts.first_fold
    logits = _logits(training, state.average, rows)
    labels = training.images.labels[rows]
    loss = float(log_losses(logits, labels).mean())
    if state.position.best_loss is None or loss < state.position.best_loss:
        state.position.best_loss, state.position.best_step, state.position.stale_epochs = loss, state.position.step, 0
        if training.task.recipe.patience:
            state.best = {name: tensor.clone() for name, tensor in state.average.state_dict().items()}
    else:
        state.position.stale_epochs += 1
    return float((logits.argmax(axis=1) == labels).mean())


@torch.inference_mode()
def _logits(training: Training, network: Network, rows: Indices) -> Floats:
    """[rows, categories], of the plain inputs."""
    network.eval()
    out = [np.empty((0, len(training.images.categories)), np.float32)]
    for inputs, _ in training.batches.plain(rows, EVALUATION_BATCH):
        logits = network(inputs.to(training.task.device, memory_format=torch.channels_last))
        out.append(logits.float().cpu().numpy())
    return np.concatenate(out)


def _jobs(training: Training, plan: Plan, step: int) -> list[tuple[int, Indices]]:
    """(epoch, rows) of every batch from the step on; the last, incomplete batch of an epoch is left out."""
    jobs: list[tuple[int, Indices]] = []
    rows, size = training.parts.other_folds, training.batch_size
    for epoch in range(step // plan.steps_per_epoch, -(-plan.total_steps // plan.steps_per_epoch)):
        order = training.batches.order(rows, epoch)
        jobs.extend((epoch, order[i * size : (i + 1) * size]) for i in range(plan.steps_per_epoch))
    return jobs[step % plan.steps_per_epoch :]


def _prepared(task: TrainTask, session: Session) -> Training:
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    session.send(Started(image_count=len(images.samples), seconds_used=session.meter.used()))
    (trunk,) = load_trunks(task, images)
    recipe, network = task.recipe, trunk.network.to(task.device)
    parts = divide(images.labels, task.split)
    how = augmentation(recipe.augmentation, mirror=recipe.mirror)
    batches = Batches(images, trunk.rule, how, task.seed, task.threads)
    starts_trained = trunk.weights.pretrained or recipe.init_from is not None
    if task.checkpoint_path:
        images.unreadable.update(checkpoints.unreadable(Path(task.checkpoint_path)))
    elif recipe.linear_head and starts_trained:
        _fit_linear_head(task, session, images, trunk, parts)
    else:
        batches.look_at(np.arange(len(images.samples)), parts.other_folds)
    images.require_readable()
    parts = readable(parts, np.array([i not in images.unreadable for i in range(len(images.samples))], np.bool_))
    stages = len(network.backbone.stage_starts)
    network.unfreeze({Depth.HEAD: 0, Depth.LAST_STAGES: LAST_STAGES, Depth.ALL: stages}[recipe.depth])
    average = copy.deepcopy(network).requires_grad_(False)
    micro = min(recipe.batch_size, task.batch_size_limit or recipe.batch_size)
    return Training(
        task=task,
        session=session,
        images=images,
        trunk=trunk,
        parts=parts,
        batches=batches,
        state=State(network, average, _optimizer(network, task), Position(), {}),
        frozen_norm=starts_trained and len(parts.other_folds) < FROZEN_NORM_BELOW,
        micro_batch=max(1, micro),
    )


def _optimizer(network: Network, task: TrainTask) -> torch.optim.AdamW:
    """Weight decay on matrices and kernels alone."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": task.recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=task.recipe.learning_rate)


def _fit_linear_head(task: TrainTask, session: Session, images: Images, trunk: Trunk, parts: Parts) -> None:
    """Fits the head on the training folds, never on the first."""
    trunk.network.eval()
    extractor = Extractor(images, [trunk], 1, Path(task.cache_directory), session, task.threads, task.device)
    (features,) = extractor.run(0.0, TRAIN_LOW)
    parts = readable(parts, sound_rows(features))
    rows, others = parts.other_folds, parts.fold[parts.fold != 0] - 1
    folds, categories = max(2, parts.folds - 1), len(images.categories)
    fold = others if parts.folds > 2 else np.arange(len(rows)) % 2
    head = fit_head([features[rows]], images.labels[rows], fold, folds, categories, (trunk.width,))
    with torch.no_grad():
        trunk.network.head.weight.copy_(torch.from_numpy(head.weight))
        trunk.network.head.bias.copy_(torch.from_numpy(head.bias))


def _planned(training: Training) -> Plan:
    """Measures a step and a validation on a copy, then plans as many steps as fit; NotEnoughBudget if too few."""
    meter, recipe = training.session.meter, training.task.recipe
    per_epoch = max(1, len(training.parts.other_folds) // training.batch_size)
    step_seconds, image_seconds = _paces(training)
    training.images.require_readable()
    validation = image_seconds * len(training.parts.first_fold)
    finishing = 0.5 + validation + image_seconds * len(training.parts.held_out) + 2e-7 * _report_cells(training)
    every = max(1, round(validation / (0.1 * per_epoch * step_seconds)))
    epoch_seconds = per_epoch * step_seconds + validation / every
    left = PLANNED_SHARE * meter.allowance_seconds - meter.used() - finishing
    epochs = min(recipe.max_epochs, left / epoch_seconds)
    if epochs < recipe.min_epochs:
        minimum = (meter.used() + finishing + recipe.min_epochs * epoch_seconds) / PLANNED_SHARE
        raise NotEnoughBudget(
            budget_seconds=round(meter.allowance_seconds, 1),
            dataset=training.images.dataset,
            image_count=len(training.images.samples),
            minimum_seconds=round(minimum, 1),
            suggested_seconds=round(minimum + recipe.max_epochs * epoch_seconds, 1),
        )
    return Plan(
        total_steps=max(1, int(epochs * per_epoch)),
        steps_per_epoch=per_epoch,
        step_seconds=step_seconds,
        finish_seconds=finishing,
        validate_every=every,
    )


def _report_cells(training: Training) -> float:
    """Scores that the final report looks at, for the time that its bootstrap takes."""
    return 500.0 * len(training.parts.first_fold) * len(training.images.categories)


def _paces(training: Training) -> tuple[float, float]:
    """(seconds of a step, seconds to predict one image), both measured on a copy of the network."""
    live = training.state
    network = copy.deepcopy(live.network)
    training.state = State(network, live.average, _optimizer(network, training.task), Position(), {})
    rows = training.batches.order(training.parts.other_folds, 0)[: training.batch_size]
    training.batches.look_at(training.parts.other_folds, training.parts.other_folds)  # no step waits for decoding
    times: list[float] = []
    for number, (inputs, labels) in enumerate(training.batches.training([(0, rows)] * 3)):
        started = time.monotonic()
        _step(training, inputs, labels, number)
        times.append(time.monotonic() - started)
    started = time.monotonic()
    probe = training.parts.first_fold[: 2 * EVALUATION_BATCH]
    _logits(training, network, probe)
    predicting = (time.monotonic() - started) / len(probe)
    training.state = live
    return sum(times[1:]) / 2, predicting


def _optimism(training: Training) -> str:
    if len(training.parts.held_out) or not training.task.recipe.patience:
        return ""
    return "The performance is of images that also chose when to stop: it is a little optimistic."


def _shipped(training: Training, plan: Plan, reason: str) -> Result:
    task, session, state, parts = training.task, training.session, training.state, training.parts
    session.progress("calibrate", 0.0, TRAIN_HIGH, 1.0)
    if state.best:
        _validate(training)  # the last weights are a candidate too
        state.average.load_state_dict(state.best)
    logits = _logits(training, state.average, parts.first_fold)
    labels = training.images.labels[parts.first_fold]
    temperature = fit_temperature(logits, labels)
    held_out_logits = _logits(training, state.average, parts.held_out) / np.float32(temperature)
    weights = training.trunk.weights
    finished = Finished(
        network=ClassifierNetwork([state.average], state.average.head),  # takes the average over
        cards=(training.trunk.card(),),
        temperature=temperature,
        selected=parts.first_fold,
        selection_logits=calibrated_across(logits, labels, np.arange(len(labels)) % 2),
        held_out=parts.held_out,
        held_out_logits=held_out_logits,
        warnings=tuple(note for note in (weights.note, _optimism(training)) if note),
        weights_source=origin([training.trunk]),
        resolution=training.trunk.rule.size,
        stop_reason=reason,
        epochs=state.position.step // plan.steps_per_epoch,
        steps=state.position.step,
    )
    training.images.require_readable()
    pace = training.batch_size / plan.step_seconds
    return finish(task, session, training.images, finished, lambda _: Throughput(train_images_per_second=pace))
