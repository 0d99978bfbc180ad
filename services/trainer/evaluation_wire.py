"""Evaluations and the performance of models as protobuf messages."""

from dataclasses import replace

from services.kit.errors import Code, Failure
from services.kit.records import Versioned
from services.kit.status import failure_to_status, to_duration, to_timestamp
from services.trainer.domain import Evaluation
from services.trainer.performance import CalibrationBin, Coverage, Interval, Performance
from services.trainer.planner.significance import Significance
from services.trainer.work import WorkState
from sightline.v1 import evaluation_pb2, finding_pb2, performance_pb2
from sightline.v1 import evaluation_service_pb2 as service_pb2

MAX_BASIC_TAGS = 100
_TAG_METRICS = ("accuracy", "average_precision_50", "precision", "recall", "f1", "suggested_threshold")
_REASONS = {
    "unknown": "internalServerError",
    "ModelNotFound": "modelNotFound",
}  # as the contract names them here


def evaluation_message(
    version: Versioned[Evaluation], performance: Performance | None = None, *, full: bool = False
) -> evaluation_pb2.Evaluation:
    """An evaluation as callers see it."""
    evaluation, work = version.value, version.value.work
    message = evaluation_pb2.Evaluation(
        name=evaluation.name,
        display_name=evaluation.display_name,
        test_dataset=evaluation.test_dataset,
        state=evaluation_pb2.Evaluation.State.Value(evaluation.state),
        progress=work.progress,
        model_version=evaluation.model_version,
        cost=to_duration(work.charged),
        create_time=to_timestamp(work.create_time),
        start_time=to_timestamp(work.start_time),
        end_time=to_timestamp(work.end_time),
        update_time=to_timestamp(evaluation.update_time),
        etag=version.etag if version.revision else "",
        snapshot_digest=evaluation.test.digest,
    )
    for finding in evaluation.findings:
        message.warnings.add(
            severity=finding_pb2.Finding.WARNING, code=finding.code, message=finding.message, remedy=finding.remedy
        )
    if evaluation.performance:
        message.performance.CopyFrom(performance_message(performance or evaluation.performance, full=full))
    if error := _error(evaluation):
        message.error.CopyFrom(failure_to_status(error))
    return message


def _error(evaluation: Evaluation) -> Failure | None:
    """Why an evaluation has no numbers, by the reasons that the contract has for evaluations."""
    work, reason = evaluation.work, "internalServerError"
    if work.error is not None:
        return replace(work.error, reason=_REASONS.get(work.error.reason, work.error.reason))
    if work.state is WorkState.STOPPED:
        seconds = f"{work.allowance.total_seconds():g}"
        return Failure(
            Code.DEADLINE_EXCEEDED, reason, f"It was ended when its {seconds} s were used up.", {"seconds": seconds}
        )
    if work.state is WorkState.CANCELLED:
        return Failure(Code.CANCELLED, reason, "It was cancelled together with the training that it is part of.")
    return None


def comparison_message(found: Significance) -> service_pb2.CompareEvaluationsResponse:
    """A paired test."""
    return service_pb2.CompareEvaluationsResponse(
        metric=found.metric,
        first_value=found.first,
        second_value=found.second,
        difference=found.difference,
        interval=interval_message(found.interval),
        p_value=found.p_value,
        image_count=found.image_count,
        left_out_image_count=found.left_out_images,
        left_out_categories=found.left_out_categories,
        first_only_right_count=found.only_first,
        second_only_right_count=found.only_second,
        both_right_count=found.both,
    )


def performance_message(performance: Performance, *, full: bool) -> performance_pb2.ModelPerformance:
    """The metrics; curves, matrix and more than 100 tags in view FULL only."""
    message = performance_pb2.ModelPerformance(
        source=performance_pb2.ModelPerformance.Source.Value(performance.source), image_count=performance.image_count
    )
    for name, value in performance.metrics().items():
        setattr(message, name, value)
    if performance.coverage is not None:
        message.coverage.CopyFrom(_coverage_message(performance.coverage))
    for name, interval in performance.intervals.items():
        message.intervals[name].CopyFrom(interval_message(interval))
    if full or len(performance.tag_performance) <= MAX_BASIC_TAGS:
        for name, tag in performance.tag_performance.items():
            entry = message.tag_performance[name]
            entry.support = tag.support
            for metric in _TAG_METRICS:
                if (value := getattr(tag, metric)) is not None:
                    setattr(entry, metric, value)
    if full:
        message.calibration_bins.extend(map(_calibration_bin, performance.calibration_bins))
        message.confusion_matrix.categories.extend(performance.categories)
        for cell in performance.confusion_matrix:
            message.confusion_matrix.entries.add(row=cell.row, col=cell.col, count=cell.count)
        for name, curve in performance.precision_recall_curves.items():
            entry = message.precision_recall_curves[name]
            entry.thresholds.extend(curve.thresholds)
            entry.precisions.extend(curve.precisions)
            entry.recalls.extend(curve.recalls)
    return message


def interval_message(interval: Interval) -> performance_pb2.Interval:
    """An interval as callers see it."""
    return performance_pb2.Interval(low=interval.low, high=interval.high, level=interval.level)


def _calibration_bin(found: CalibrationBin) -> performance_pb2.CalibrationBin:
    message = performance_pb2.CalibrationBin(
        mean_confidence=found.mean_confidence, accuracy=found.accuracy, count=found.count
    )
    if found.interval:
        message.interval.CopyFrom(interval_message(found.interval))
    return message


def _coverage_message(coverage: Coverage) -> performance_pb2.Coverage:
    return performance_pb2.Coverage(
        image_count=coverage.image_count,
        measured_image_count=coverage.measured_image_count,
        unknown_image_count=coverage.unknown_image_count,
        unreadable_image_count=coverage.unreadable_image_count,
        region_count=coverage.region_count,
        unknown_region_count=coverage.unknown_region_count,
        unknown_categories=[
            performance_pb2.UnknownCategory(
                name=category.name,
                image_count=category.image_count,
                region_count=category.region_count,
                similar_category=category.similar,
            )
            for category in coverage.unknown_categories
        ],
        untested_categories=coverage.untested_categories,
    )
