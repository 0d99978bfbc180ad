"""The training loop of every network. From pretrained weights and a linear head it is LP-FT (Kumar et al., 2022).

It trains on all folds but the first, and validates the moving average of its weights on the first. Before the first
step it measures how many fit; the schedule is then fixed, so that a resumed training follows it too. If the machine
slows down, training ends early with its best result, which `delivery` keeps ready.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor

from services.kit.errors import Diverged
from services.trainer.engine.data import Indices
from services.trainer.engine.loop import checkpoint as checkpoints
from services.trainer.engine.loop.checkpoint import Candidate, Plan, Position, State
from services.trainer.engine.loop.delivery import Delivery
from services.trainer.engine.loop.numerics import Numerics, candidates, fastest
from services.trainer.engine.loop.saving import Saver
from services.trainer.engine.loop.step import step
from services.trainer.engine.loop.task import Batch, BatchRequest
from services.trainer.engine.loop.timing import OutOfTime
from services.trainer.engine.loop.together import Begin
from services.trainer.engine.loop.training import EVALUATION_BATCH, PREPARED, TRAINED, Start, Training, optimizer
from services.trainer.engine.session import Session
from services.trainer.messages import Result, TrainTask

PLANNED_SHARE = 0.85  # of the allowance: the rest is for a machine that slows down
DELIVERIES = 2  # that a plan leaves time for: one offer and the final result
PROBES = 3  # steps to measure; the first is only a warm-up
MAX_RETRIES = 3


def fine_tune(task: TrainTask, session: Session, start: Callable[[TrainTask, Session], Start]) -> Result:
    """Runs the whole task; ends before the allowance does, with the best weights by then.

    `start` is that of the task's kind: it opens the snapshot and loads the network.
    """
    if task.checkpoint_path and not checkpoints.usable(Path(task.checkpoint_path), task.recipe):
        task = msgspec.structs.replace(task, checkpoint_path=None)  # starts over
    session.group.order(Begin())
    training = Training.begin(task, session, start(task, session))
    if task.checkpoint_path:
        training.compute_in(checkpoints.numerics(Path(task.checkpoint_path)))
        plan = checkpoints.restore(Path(task.checkpoint_path), training.state)
        delivery = Delivery(training, plan.steps_per_epoch)
        with suppress(OutOfTime):
            delivery.offer()  # secures what the previous attempt reached
        _measure_pace(training)  # this may be another machine
    else:
        choices = candidates(task.device, training.vision_task.numerics)
        training.compute_in(fastest(choices, lambda numerics: _step_seconds(training, numerics)))
        _measure_pace(training)
        plan = _planned(training)
        delivery = Delivery(training, plan.steps_per_epoch)
        with suppress(OutOfTime):
            delivery.offer()
    reason = _fit(training, plan, delivery)
    return delivery.final(reason)


def _fit(training: Training, plan: Plan, delivery: Delivery) -> str:
    """The training loop, then the validation of its last weights; returns why it ended."""
    session, state, pace = training.session, training.state, training.pace
    recipe, position = training.task.recipe, state.position
    good = (state.pack(), copy.copy(position))
    saver = Saver(training, plan)
    batches = training.together.batches(_requests(training, plan, position.step))
    while position.step < plan.total_steps and pace.leaves(training.end_seconds, 2 * pace.step_seconds):
        loss = _timed_step(training, plan, batches)
        if not np.isfinite(loss):
            position = _retry(training, good, loss)
            batches = training.together.batches(_requests(training, plan, position.step))
            continue
        position.step += 1
        state.average_in(recipe.average_decay)
        session.progress("train", position.step / plan.total_steps, PREPARED, TRAINED)
        if position.step == plan.total_steps:
            break
        epoch, inside = divmod(position.step, plan.steps_per_epoch)
        if inside == 0 and (epoch % plan.validate_every == 0 or state.candidate is None):
            if not pace.leaves(training.end_seconds, training.validation_seconds):
                break
            _validate_and_offer(training, plan, delivery)
            if recipe.patience and position.stale_epochs >= recipe.patience:
                return "converged"
        if saver.due():
            good = (state.pack(), copy.copy(position))
            saver.save(good[0])
    return _validate_last(training, plan)


def _timed_step(training: Training, plan: Plan, batches: Iterator[Batch]) -> float:
    """The next step at the plan's rate, timed with the wait for its batch; returns the loss before it."""
    state, position, meter = training.state, training.state.position, training.session.meter
    for group in state.optimizer.param_groups:
        rate = training.task.recipe.learning_rate * position.rate_factor * plan.rate(position.step)
        group["lr"] = group["share"] * rate
    began = meter.used()
    inputs, truths = next(batches)
    loss = step(training, inputs, truths, position.step)
    training.pace.stepped(meter.used() - began)
    return loss


def _validate_last(training: Training, plan: Plan) -> str:
    """Makes the last weights a candidate too, if time allows; returns why the loop ended."""
    position = training.state.position
    training.session.progress("calibrate", 0.0, TRAINED, 1.0)
    try:
        if position.step not in (0, position.candidate_step):
            _validate(training)
    except OutOfTime:
        return "allowance"
    return "converged" if position.step == plan.total_steps else "allowance"


def _retry(training: Training, good: tuple[dict[str, Tensor], Position], loss: float) -> Position:
    """Returns to the last good state, at half the rate; raises Diverged after MAX_RETRIES."""
    task, state, position = training.task, training.state, training.state.position
    if position.retries >= MAX_RETRIES:
        raise Diverged(
            trial=task.trial,
            loss=loss,
            step=position.step,
            learning_rate=task.recipe.learning_rate * position.rate_factor,
            retries=position.retries,
        )
    state.unpack(good[0])
    state.position = copy.copy(good[1])
    state.position.retries, state.position.rate_factor = position.retries + 1, position.rate_factor / 2
    return state.position


def _validate_and_offer(training: Training, plan: Plan, delivery: Delivery) -> None:
    """Validates, and offers a better candidate, if time allows."""
    with suppress(OutOfTime):
        _validate(training)
        training.session.progress("train", training.state.position.step / plan.total_steps, PREPARED, TRAINED)
        if delivery.renewable and training.pace.leaves(training.end_seconds, training.delivery_seconds):
            delivery.offer()


def _validate(training: Training) -> None:
    """Measures the average on the first fold. Raises OutOfTime if no time would be left to deliver the candidate.

    The average becomes the candidate if it is better, or if the recipe trusts its schedule more than validation.
    """
    state, position = training.state, training.state.position
    outputs = training.predict(state.average, training.partition.first_fold, training.delivery_seconds)
    loss = training.vision_task.validation_loss(outputs)
    best = position.best_loss
    better = best is None or (loss is not None and loss < best)
    position.stale_epochs = 0 if better else position.stale_epochs + 1
    if better:
        position.best_loss = loss
    if better or not training.task.recipe.patience:
        weights = {name: tensor.clone() for name, tensor in state.average.state_dict().items()}
        state.candidate, position.candidate_step = Candidate(weights, outputs), position.step


def _requests(training: Training, plan: Plan, first: int) -> list[BatchRequest]:
    """All batches from step `first` on; an epoch's incomplete last batch is dropped."""
    requests: list[BatchRequest] = []
    size, every = training.batch_size, plan.steps_per_epoch
    for epoch in range(first // every, -(-plan.total_steps // every)):
        order = _order(training, epoch)
        requests.extend(BatchRequest(epoch, order[i * size : (i + 1) * size]) for i in range(every))
    return requests[first % every :]


def _order(training: Training, epoch: int) -> Indices:
    """The training images, in the epoch's order."""
    rows = training.partition.other_folds
    return rows[np.random.default_rng((training.task.seed, epoch)).permutation(len(rows))]


def _measure_pace(training: Training) -> None:
    """Times predictions, and steps on a copy of the network, which leaves the training untouched.

    Stops as soon as there is little more time than delivery needs.
    """
    live, pace = training.state, training.pace
    for number, seconds in enumerate(_probes(training)):
        enough = pace.leaves(training.delivery_seconds)
        if number or not enough:
            pace.stepped(seconds)
        if not enough:
            break
    else:
        training.predict(training.state.network, training.partition.first_fold[: 2 * EVALUATION_BATCH])
    training.state = live


def _step_seconds(training: Training, numerics: Numerics) -> float:
    """The least time of a step with these numerics, without the first; infinite if there is hardly time to measure."""
    live, usual = training.state, training.vision_task.numerics
    training.compute_in(numerics)
    found: list[float] = []
    for number, seconds in enumerate(_probes(training)):
        found += [seconds] if number else []
        if not training.pace.leaves(training.delivery_seconds):
            break
    training.state = live
    training.compute_in(usual)
    return min(found, default=math.inf)


def _probes(training: Training) -> Iterator[float]:
    """Steps on a copy of the network, which becomes the training's; yields the seconds of each."""
    network = copy.deepcopy(training.state.network)
    training.state = State(network, training.state.average, optimizer(network, training.task), Position())
    rows = _order(training, 0)[: training.batch_size]
    probes = [BatchRequest(0, rows)] * PROBES
    for number, (inputs, truths) in enumerate(training.together.batches(probes)):
        began = training.pace.meter.used()
        step(training, inputs, truths, number)
        yield training.pace.meter.used() - began


def _planned(training: Training) -> Plan:
    """As many steps as fit at the measured pace; raises NotEnoughBudget if they are too few."""
    meter, recipe, pace = training.session.meter, training.task.recipe, training.pace
    per_epoch = max(1, len(training.partition.other_folds) // training.batch_size)
    validation, step_seconds = training.validation_seconds, pace.step_seconds
    ending = validation + DELIVERIES * training.delivery_seconds
    every = max(1, round(validation / (0.1 * per_epoch * step_seconds)))
    epoch_seconds = per_epoch * step_seconds + validation / every
    left = PLANNED_SHARE * meter.allowance_seconds - meter.used() - ending
    wanted = training.vision_task.max_epochs
    epochs = min(wanted, left / epoch_seconds)
    if epochs < min(recipe.min_epochs, wanted):
        minimum = (meter.used() + ending + recipe.min_epochs * epoch_seconds) / PLANNED_SHARE
        suggested = minimum + recipe.max_epochs * epoch_seconds
        raise meter.not_enough(training.images.dataset, len(training.images.samples), minimum, suggested)
    return Plan(
        total_steps=max(1, int(epochs * per_epoch)),
        steps_per_epoch=per_epoch,
        validate_every=every,
        numerics=training.vision_task.numerics,
    )
