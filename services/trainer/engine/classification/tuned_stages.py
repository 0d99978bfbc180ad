"""Rung 1 for a few hundred images: the last stages of a network tuned on stored maps, beside the heads of rung 0.

Each fold is predicted by a network that was tuned without it, which gives the weights of the two in the answer and an
honest estimate of it. What ships is tuned on all images, equally long.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidRequest
from services.trainer.engine.classification.companion import (
    Companion,
    fit_companion,
    fit_on_all,
    fit_on_other_folds,
)
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.heads import LinearHead
from services.trainer.engine.classification.linear_head import sound_rows
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.classification.names import read_names
from services.trainer.engine.classification.near_duplicates import divided
from services.trainer.engine.classification.result import Finished, finish, report_seconds
from services.trainer.engine.classification.stage_maps import store_maps
from services.trainer.engine.classification.stage_schedule import Costs, Schedule, StepClock, schedule
from services.trainer.engine.classification.stage_tuning import StageTuning
from services.trainer.engine.data import Floats, Images, Indices, open_images, require_trainable
from services.trainer.engine.pretrained import LoadedBackbone, load_backbones, origin, tunable
from services.trainer.engine.session import Session
from services.trainer.engine.split import Partition
from services.trainer.messages import Result, TrainTask
from services.vision.backbones import Network

FEATURES, STORED, TRAINED = 0.1, 0.3, 0.95  # of the progress bar: where features, maps and training end
PROBES = 4  # steps to measure; the first is only a warm-up


def tune_stages(task: TrainTask, session: Session) -> Result:
    """The whole task. Raises InvalidRequest without pretrained weights of a network that has stages."""
    images = open_images(Path(task.directory), task.dataset)
    require_trainable(images)
    backbones = load_backbones(task, images)
    if not backbones[0].weights.pretrained or not backbones[0].network.backbone.stage_starts:
        problem = f"{backbones[0].name} has no pretrained stages here to tune"
        raise InvalidRequest(field="recipe.stored_maps", problem=problem)
    for backbone in backbones:
        backbone.network.to(task.device).eval()
    own = tunable(backbones[0], task)
    views = Extractor(task, session, images, backbones, task.recipe.views).run(0.0, FEATURES)
    partition = divided(views[0][0], images, task.split, sound_rows(views[0]))
    names = read_names(task, backbones, images.categories)
    categories = len(images.categories)
    companion = fit_companion(backbones, views, images.labels, partition, categories, names, crossed=True)
    clock = StepClock(task, session, len(images.samples), (STORED, TRAINED))
    maps = store_maps(task, session, images, own, (FEATURES, STORED))
    tuning = StageTuning(task, own.network, maps, images.labels, clock.stepped)
    tuned = _Folds(task, session, images, partition, tuning, clock, [blocks[:1] for blocks in views]).run()
    return _finished(task, session, images, partition, own, companion, tuned)


@dataclass(frozen=True, slots=True)
class _Tuned:
    network: Network  # of all images
    out_of_fold: Floats  # logits [trainable images, categories]
    solved: NDArray[np.bool_]  # which of them have logits
    held_out: Floats
    epochs: int
    steps: int


@dataclass(slots=True)
class _Folds:
    task: TrainTask
    session: Session
    images: Images
    partition: Partition
    tuning: StageTuning
    clock: StepClock
    views: list[list[Floats]]  # of the network that is tuned, its last stage

    def run(self) -> _Tuned:
        """Tunes without each fold that there is time for, then on all images."""
        partition, categories, meter = self.partition, len(self.images.categories), self.session.meter
        began = meter.used()
        head, _ = fit_on_all(self.views, self.images.labels, partition, categories)
        head_seconds = meter.used() - began
        self.tuning.trained(partition.trainable, head, 1, PROBES)
        costs = self._costs(head_seconds)
        planned = schedule(self.task, costs, meter, partition.folds, len(self.images.samples))
        self._announce(planned, costs)
        out_of_fold = np.zeros((len(partition.trainable), categories), np.float32)
        solved = np.zeros(len(partition.trainable), np.bool_)
        for fold in range(planned.folds):
            left = replace(costs, step_seconds=self.clock.step_seconds)
            needed = left.fold_seconds(planned.epochs) + left.rest_seconds(planned.epochs)
            if fold and meter.remaining() < needed:
                break  # the machine has slowed down
            out = partition.fold == fold
            start = fit_on_other_folds(self.views, self.images.labels, partition, categories, without=fold)
            network = self._trained(partition.trainable[~out], start, planned.epochs)
            out_of_fold[out] = self.tuning.logits(network, partition.trainable[out])
            solved |= out
        network = self._trained(partition.trainable, head, planned.epochs)
        held_out = self.tuning.logits(network, partition.held_out)
        return _Tuned(network, out_of_fold, solved, held_out, planned.epochs, planned.epochs * costs.all_steps)

    def _costs(self, head_seconds: float) -> Costs:
        steps, partition = self.tuning.steps_per_epoch, self.partition
        return Costs(
            step_seconds=self.clock.step_seconds,
            head_seconds=head_seconds,
            end_seconds=report_seconds(len(partition.trainable), len(self.images.categories)),
            fold_steps=steps(len(partition.trainable) - len(partition.first_fold)),
            all_steps=steps(len(partition.trainable)),
        )

    def _announce(self, planned: Schedule, costs: Costs) -> None:
        self.clock.end_seconds = costs.end_seconds
        self.clock.total = planned.epochs * (planned.folds * costs.fold_steps + costs.all_steps)

    def _trained(self, rows: Indices, head: LinearHead, epochs: int) -> Network:
        self.clock.begin()
        return self.tuning.trained(rows, head, epochs)


def _finished(
    task: TrainTask,
    session: Session,
    images: Images,
    partition: Partition,
    own: LoadedBackbone,
    companion: Companion,
    tuned: _Tuned,
) -> Result:
    """The blend that the predicted folds suggest, calibrated by them."""
    solved, note = tuned.solved & companion.head.solved, own.weights.note
    selected, fold = partition.trainable[solved], partition.fold[solved]
    labels = images.labels[selected]
    companion = replace(companion, selection=companion.selection[solved])
    both = companion.combined(own, tuned.network, tuned.out_of_fold[solved], tuned.held_out, labels)
    temperature = fit_temperature(both.selection, labels)
    parts = fold if len(np.unique(fold)) > 1 else np.arange(len(fold)) % 2
    finished = Finished(
        network=both.network,
        cards=both.cards,
        temperature=temperature,
        selected=selected,
        selection_logits=calibrated_across(both.selection, labels, parts),
        held_out=partition.held_out,
        held_out_logits=both.held_out / np.float32(temperature),
        warnings=(note,) if note else (),
        weights_source=origin([own]),
        resolution=own.rule.size,
        stop_reason="converged" if solved.all() and tuned.epochs == task.recipe.max_epochs else "allowance",
        epochs=tuned.epochs,
        steps=tuned.steps,
        mirror=task.recipe.mirror,
        names=companion.names,
    )
    session.progress("bundle", 0.0, TRAINED, 1.0)
    return finish(task, session, images, finished, Path(task.output_directory))
