"""Conversion between protobuf messages and estimates."""

from services.kit.status import to_duration
from services.trainer.estimate import METRIC, Estimate
from services.trainer.planner.outlook import BudgetOutlook, Outlook
from sightline.v1 import model_service_pb2 as pb
from sightline.v1 import performance_pb2


def estimate_message(estimate: Estimate, outlook: Outlook) -> pb.EstimateTrainingResponse:
    """The answer to a call."""
    assert estimate.probe is not None, "its probe has ended"
    known = any(each.expectation for each in outlook.budgets)
    return pb.EstimateTrainingResponse(
        minimum_budget=to_duration(outlook.minimum),
        suggested_budget=to_duration(outlook.suggested),
        device=estimate.probe.device,
        calibration_factor=estimate.device_factor,
        metric_name=METRIC if known else "",
        outlook=[_outlook_message(each) for each in outlook.budgets],
    )


def _outlook_message(found: BudgetOutlook) -> pb.BudgetOutlook:
    message = pb.BudgetOutlook(budget=to_duration(found.budget), expected_cost=to_duration(found.cost))
    if found.expectation is not None:
        interval = found.expectation.interval
        message.metric_value = found.expectation.value
        message.interval.CopyFrom(performance_pb2.Interval(low=interval.low, high=interval.high, level=interval.level))
    return message
