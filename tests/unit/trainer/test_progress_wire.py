"""The progress of a training."""

from datetime import timedelta

from msgspec.structs import replace

from services.trainer.domain import ModelState, Trial
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import StartTrial
from services.trainer.progress_wire import NOTHING, progress_message
from services.trainer.work import Work
from tests.unit.trainer.support import START, TTL, training


def test_a_training_that_goes_on_after_work_was_lost_is_not_done() -> None:
    model = training()
    step = plan(model, [], None)
    assert isinstance(step, StartTrial)
    assert model.training
    work = Work(create_time=START, allowance=step.allowance, furthest=model.budget)
    trial = Trial(
        name=f"{model.name}/trials/t000", model_uid=model.uid, number=0, training=model.training, recipe=step.recipe,
        holdout_fraction=0.2, seed=0, expected_seconds=step.expected_seconds, parent_trial=step.parent_trial,
        work=work.taken("t000", "w", START, TTL), update_time=START,
    )  # fmt: skip
    going_on = progress_message(model, [trial], None, NOTHING)
    assert going_on.estimated_time_left.ToTimedelta() > timedelta(0)
    assert f"{going_on.fraction:.0%}" == "99%"
    ended = progress_message(replace(model, state=ModelState.SUCCEEDED), [trial], None, NOTHING)
    assert (ended.fraction, ended.HasField("estimated_time_left")) == (1, False)
