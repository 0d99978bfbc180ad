"""A leaderboard, mistakes and a learning curve as protobuf messages."""

from services.kit.status import to_duration
from services.trainer.domain import Trial
from services.trainer.evaluation_wire import interval_message
from services.trainer.insight import ADDED_IMAGES, Doubt, Gain, LearningCurve, Mistake
from services.trainer.leaderboard import Entry
from services.trainer.name_use import NameEffect
from services.trainer.trial_wire import SCORE_METRICS
from services.vision.card import ModelKind
from sightline.v1 import insight_pb2


def entry_message(entry: Entry) -> insight_pb2.LeaderboardEntry:
    """A trial on the leaderboard."""
    trial, result = entry.trial, None if entry.trial.recipe.refit else entry.trial.result
    message = insight_pb2.LeaderboardEntry(
        trial=trial.name,
        rung=trial.recipe.rung,
        recipe=_recipe(trial),
        score=result.score if result else None,
        score_metric=SCORE_METRICS[trial.recipe.kind] if result else "",
        cost=to_duration(trial.work.charged),
        served=entry.served,
        verdict=entry.verdict,
    )
    if result and trial.recipe.kind is ModelKind.GENERIC_CLASSIFIER and result.log_loss is not None:
        message.log_loss = result.log_loss
    if result and result.score_interval:
        message.score_interval.CopyFrom(interval_message(result.score_interval))
    return message


def _recipe(trial: Trial) -> str:
    """In words, and whether category names helped."""
    names = trial.result.names if trial.result else None
    if names is None or names.effect is NameEffect.NONE:
        return trial.recipe.name
    how = "from category names" if names.effect is NameEffect.CENTRE else "category names alone"
    return f"{trial.recipe.name}, {how}"


def curve_message(trial: str, curve: LearningCurve) -> insight_pb2.LearningCurve:
    """The learning curve of a trial's features."""
    if curve.gain is None or curve.power_law is None:
        return insight_pb2.LearningCurve(unavailable=curve.unavailable)
    return insight_pb2.LearningCurve(
        trial=trial,
        metric=SCORE_METRICS[ModelKind.GENERIC_CLASSIFIER],
        points=[
            insight_pb2.LearningPoint(
                images_per_category=point.images_per_category,
                value=point.value,
                interval=interval_message(point.interval),
            )
            for point in curve.points
        ],
        power_law=insight_pb2.PowerLaw(a=curve.power_law.a, b=curve.power_law.b, c=curve.power_law.c),
        added_image_count=ADDED_IMAGES,
        gain=_gain_message(curve.gain),
        categories=[
            insight_pb2.CategoryGain(
                category=one.category,
                image_count=one.image_count,
                recall=one.recall,
                gain=_gain_message(one.gain),
                net_gain=_gain_message(one.net_gain),
            )
            for one in curve.categories
        ],
    )


def _gain_message(gain: Gain) -> insight_pb2.ExpectedGain:
    return insight_pb2.ExpectedGain(value=gain.value, interval=interval_message(gain.interval))


def doubt_message(doubt: Doubt) -> insight_pb2.Doubt:
    """A region in doubt."""
    return insight_pb2.Doubt(
        image_id=doubt.image_id,
        file_name=doubt.file_name,
        kind=insight_pb2.Doubt.Kind.Value(doubt.kind),
        category=doubt.category,
        box=doubt.box,
        confidence=doubt.confidence,
        region_category=doubt.labelled,
        region_box=doubt.region or (),
    )


def mistake_message(mistake: Mistake) -> insight_pb2.Mistake:
    """A mistake."""
    return insight_pb2.Mistake(
        image_id=mistake.image_id,
        file_name=mistake.file_name,
        true_category=mistake.true_category,
        predicted_category=mistake.predicted_category,
        probability=mistake.probability,
        log_loss=mistake.log_loss,
        missed_region_count=mistake.missed,
        false_object_count=mistake.false,
    )
