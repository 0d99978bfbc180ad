"""Conversion of trials into protobuf messages."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from services.kit.records import Versioned
from services.kit.status import failure_to_status, to_duration, to_timestamp
from services.trainer.domain import Trial
from services.trainer.recipe import Depth, Recipe
from services.vision.card import ModelKind
from sightline.v1 import trial_pb2

SCORE_METRICS = {
    ModelKind.GENERIC_CLASSIFIER: "accuracy_top1",
    ModelKind.GENERIC_DETECTOR: "mean_average_precision_50",
}
_DEPTHS = {
    Depth.HEAD: trial_pb2.Recipe.HEAD,
    Depth.NECK: trial_pb2.Recipe.LAST_STAGES,
    Depth.LAST_STAGES: trial_pb2.Recipe.LAST_STAGES,
    Depth.ALL: trial_pb2.Recipe.ALL,
}


def trial_message(version: Versioned[Trial]) -> trial_pb2.Trial:
    """A trial as callers see it."""
    trial, work, result = version.value, version.value.work, version.value.result
    scored = None if trial.recipe.refit else result
    message = trial_pb2.Trial(
        name=trial.name,
        state=trial_pb2.Trial.State.Value(work.state),
        rung=trial.recipe.rung,
        recipe=_recipe_message(trial),
        score=scored.score if scored else None,
        score_metric=SCORE_METRICS[trial.recipe.kind] if scored else "",
        standard_error=scored.standard_error if scored else None,
        cost=to_duration(work.charged),
        attempts=work.attempt,
        progress=work.progress,
        create_time=to_timestamp(work.create_time),
        start_time=to_timestamp(work.start_time),
        end_time=to_timestamp(work.end_time),
        update_time=to_timestamp(trial.update_time),
        etag=version.etag,
    )
    if result and (cost := prediction_cost(result.prediction_seconds)) is not None:
        message.prediction_cost.CopyFrom(cost)
    if result:
        message.weights_source = trial_pb2.Trial.WeightsSource.Value(result.weights_source)
        for used in result.weights:
            source = trial_pb2.Trial.WeightsSource.Value(used.source)
            message.weights.add(network=used.network, source=source, sha256=used.sha256)
        if (features := result.features) is not None:
            message.features.reused_blocks = features.reused
            message.features.computed_blocks = features.computed
            message.features.saved.CopyFrom(to_duration(features.saved))
        if (names := result.names) is not None and names.network:
            effect = trial_pb2.NameUse.Effect.Value(names.effect)
            message.category_names.CopyFrom(trial_pb2.NameUse(effect=effect, network=names.network, scale=names.scale))
    if work.error:
        message.error.CopyFrom(failure_to_status(work.error))
    return message


def prediction_cost(seconds: float | None) -> Duration | None:
    """What predicting an image costs; None if it is not known."""
    return to_duration(timedelta(seconds=seconds)) if seconds else None


def _recipe_message(trial: Trial) -> trial_pb2.Recipe:
    recipe: Recipe = trial.recipe
    detects = recipe.kind is ModelKind.GENERIC_DETECTOR
    tuned = detects or recipe.rung > 0  # trained by gradients
    depth = recipe.depth if tuned else Depth.HEAD
    return trial_pb2.Recipe(
        backbones=(trial.result.networks if trial.result else ()) or recipe.backbones,
        head="detection" if detects else "linear" if tuned else "logistic",
        depth=_DEPTHS[depth],
        resolution=trial.result.resolution if trial.result else recipe.resolution,
        augmentation=_augmentation(recipe) if tuned else ("none" if recipe.views == 1 else f"{recipe.views} views"),
        learning_rate=recipe.learning_rate if tuned else None,
        weight_decay=recipe.weight_decay if tuned else None,
        batch_size=recipe.batch_size if tuned else None,
        epochs=trial.result.epochs if tuned and trial.result else None,
        seed=trial.seed,
        refit=recipe.refit,
    )


def _augmentation(recipe: Recipe) -> str:
    """The augmentation of gradient training: its strength, and whether images are mirrored."""
    if not recipe.augmentation and not recipe.mirror:
        return "none"
    return f"{recipe.augmentation:.1f}, mirrored" if recipe.mirror else f"{recipe.augmentation:.1f}"
