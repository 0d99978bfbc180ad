"""What the evaluations of both kinds share: whose categories are whose, what is delivered, no more time than given."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from services.kit.errors import NotEnoughBudget
from services.trainer.coverage import findings
from services.trainer.engine.data import Images, Indices
from services.trainer.engine.session import Session
from services.trainer.messages import EvaluationResult
from services.trainer.performance import Coverage, Performance

EARLY = 0.25  # share of the allowance before which the pace says little


def indices_in(names: tuple[str, ...], categories: tuple[str, ...]) -> Indices:
    """For each category the place of its name among `names`, -1 where it is none of them."""
    position = {name: index for index, name in enumerate(names)}
    return np.array([position.get(name, -1) for name in categories], np.int64)


def require_time(session: Session, images: Images, done: float) -> None:
    """NotEnoughBudget as soon as the pace shows that the allowance does not last."""
    meter = session.meter
    needed = meter.used() / done
    if needed > meter.allowance_seconds and meter.used() > EARLY * meter.allowance_seconds:
        raise NotEnoughBudget(
            budget_seconds=round(meter.allowance_seconds, 1),
            dataset=images.dataset,
            image_count=len(images.samples),
            minimum_seconds=round(needed, 1),
            suggested_seconds=round(2 * needed, 1),
        )


def delivered(
    performance: Performance, coverage: Coverage, images: Images, session: Session, predictions: Path
) -> EvaluationResult:
    """The result of an evaluation that measured all images of its coverage but those that proved unreadable."""
    coverage = replace(
        coverage,
        measured_image_count=performance.image_count,
        unreadable_image_count=len(images.unreadable),
        untested_categories=tuple(name for name, tag in performance.tag_performance.items() if not tag.support),
    )
    unreadable = images.unreadable_files()
    return EvaluationResult(
        performance=replace(performance, coverage=coverage),
        seconds=session.meter.used(),
        predictions_path=str(predictions),
        unreadable=unreadable,
        findings=findings(images.dataset, coverage, unreadable),
    )
