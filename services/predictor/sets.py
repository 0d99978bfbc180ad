"""Prediction sets: the categories of an image that contain the true one with the probability that a query asks for."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import CoverageUnavailable, InvalidRequest
from services.predictor.domain import ImageQuery
from services.vision.card import ModelCard, ModelKind
from services.vision.prediction_sets import Calibration, images_needed, members
from sightline.plurals import counted

UNCALIBRATED = Calibration(0, ())


@dataclass(frozen=True, slots=True)
class PredictionSet:
    """Categories, most confident first, that contain the true one with the probability `coverage`."""

    coverage: float
    names: tuple[str, ...]
    calibration_images: int


def check_coverage(card: ModelCard, query: ImageQuery) -> None:
    """Raises InvalidRequest for a detector, CoverageUnavailable if the model was calibrated on too few images."""
    coverage, calibration = query.coverage, card.calibration or UNCALIBRATED
    if coverage is None:
        return
    if card.kind is ModelKind.GENERIC_DETECTOR:
        raise InvalidRequest(field="coverage", problem=f"{query.model_name} is a detector; only classifiers give sets")
    if calibration.threshold(coverage) is None:
        raise CoverageUnavailable(
            name=query.model_name,
            coverage=f"{coverage:g}",
            problem=_shortage(calibration, coverage),
            image_count=calibration.image_count,
            highest_coverage=_highest(calibration),
            images_needed=images_needed(coverage),
        )


def set_of(card: ModelCard, output: NDArray[np.float32], query: ImageQuery) -> PredictionSet | None:
    """The set that the query asks for; None if it asks for none."""
    if query.coverage is None:
        return None
    check_coverage(card, query)
    calibration = card.calibration or UNCALIBRATED
    found = members(output.tolist(), calibration.threshold(query.coverage) or 0.0)
    return PredictionSet(query.coverage, tuple(card.categories[index].name for index in found), calibration.image_count)


def _shortage(calibration: Calibration, coverage: float) -> str:
    if not calibration.image_count:
        return "it was trained by a version that did not prepare them; train the model again"
    return (
        f"it was calibrated on {counted(calibration.image_count, 'image')}, which allow at most"
        f" {_highest(calibration)}, and this coverage needs {images_needed(coverage)}; request less, or train on more"
        " images"
    )


def _highest(calibration: Calibration) -> str:
    """Rounded down, so that it can be requested."""
    return f"{math.floor(calibration.highest_coverage * 10_000) / 10_000:g}"
