"""What the evaluations of both kinds share: no more time than they were given."""

from services.kit.errors import NotEnoughBudget
from services.trainer.engine.data import Images
from services.trainer.engine.session import Session

EARLY = 0.25  # share of the allowance before which the pace says little


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
