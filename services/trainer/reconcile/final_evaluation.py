"""The evaluation on the test dataset that ends a training: its record, and what it adds to the model."""

from dataclasses import replace
from datetime import datetime, timedelta

from services.kit.names import join, new_uid
from services.trainer.domain import FINAL_EVALUATION, Evaluation, Model, Served
from services.trainer.work import Work, WorkState


def planned(model: Model, allowance: timedelta, now: datetime) -> Evaluation:
    """The record of an evaluation of the served bundle on the model's test dataset."""
    assert model.test is not None, "the planner asks for it only if there is a test dataset"
    assert model.served is not None, "the planner asks for it only if there is a bundle"
    return Evaluation(
        name=join(model.name, "evaluations", FINAL_EVALUATION),
        uid=new_uid(),
        model_uid=model.uid,
        test_dataset=model.test_dataset,
        test=model.test,
        model_version=model.served.version,
        bundle_key=model.served.bundle_key,
        bundle_digest=model.served.bundle_digest,
        bundle_signature=model.served.bundle_signature,
        model_kind=model.model_kind,
        work=Work(create_time=now, allowance=allowance, origin=model.origin),
        update_time=now,
    )


def measured(model: Model, final: Evaluation | None) -> tuple[Served | None, tuple[str, ...]]:
    """What the model serves, with its performance on the test dataset if that was measured, and all warnings."""
    served, warnings = model.served, model.warnings
    if final is None or served is None:
        return served, warnings
    if final.performance is None:
        problem = _why_not_measured(final.work)
        return served, (*warnings, f"The evaluation on {model.test_dataset} did not succeed: {problem}")
    served = replace(served, performance=final.performance, performance_key=final.performance_key)
    return served, (*warnings, *(f"{finding.message} {finding.remedy}" for finding in final.findings))


def _why_not_measured(work: Work) -> str:
    if work.error is not None:
        return work.error.message
    if work.state is WorkState.STOPPED:
        return f"the {work.allowance.total_seconds():g} s left in the budget were not enough."
    return f"it is {work.state}."
