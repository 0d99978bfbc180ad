"""How much better one trial is than another, on the images that both predicted and neither was trained on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.trainer.predictions import AnyPredictions, DetectorPredictions, Predictions
from services.vision.average_precision import Matched
from services.vision.detection_matching import DetectionTable, GroundTruth, match
from services.vision.detection_metrics import resampled

IOU_THRESHOLDS = (0.50, 0.75)  # where a few images leave the one without differences, the other still has some


def paired_gain(old: AnyPredictions, new: AnyPredictions) -> tuple[float, float, int]:
    """(gain, its standard error, images) of `new` over `old` on the images that both predicted."""
    match old, new:
        case Predictions(), Predictions():
            return _log_loss_gain(old, new)
        case DetectorPredictions(), DetectorPredictions():
            return _precision_gain(old, new)
        case _:
            raise ValueError("a classifier's predictions cannot be compared with a detector's")


def _log_loss_gain(old: Predictions, new: Predictions) -> tuple[float, float, int]:
    """(fall in the mean log loss, its standard error, images) from `old` to `new` on the images that both predicted.

    Log loss tells two classifiers apart on far fewer images than accuracy does, and pairing removes the noise due to
    the images' difficulty. With fewer than two common images: (0, inf, images).
    """
    before, after = (dict(zip(each.image_ids, each.log_losses, strict=True)) for each in (old, new))
    gains = np.array([before[id_] - after[id_] for id_ in after if id_ in before])
    if len(gains) < 2:
        return 0.0, float("inf"), len(gains)
    return float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5, len(gains)


def _precision_gain(old: DetectorPredictions, new: DetectorPredictions) -> tuple[float, float, int]:
    """(gain in mAP, its standard error, images) of `new` over `old`, by a paired bootstrap over images.

    mAP is the mean of those at IoU 0.50 and 0.75.

    The error is at least half a region, so that a few images never give certainty. Without a common image that has
    regions: (0, inf, 0).
    """
    common = common_images(old, new)
    before, after = (matched(each, common, old.categories, IOU_THRESHOLDS) for each in (old, new))
    gain = float(np.mean([each.mean_average_precision() for each in after]))
    gain -= float(np.mean([each.mean_average_precision() for each in before]))
    if np.isnan(gain):
        return 0.0, float("inf"), 0
    values = resampled((*before, *after))
    gains = values[:, len(before) :].mean(axis=1) - values[:, : len(before)].mean(axis=1)
    error = float(gains.std(ddof=1)) if len(values) > 1 else 0.0
    return gain, max(error, 0.5 / after[0].truth_count), len(common)


def common_images(old: DetectorPredictions, new: DetectorPredictions) -> NDArray[np.int64]:
    """The ids of the images that both predicted, ascending."""
    return np.intersect1d(old.image_ids.array(), new.image_ids.array())


def matched(
    predictions: DetectorPredictions, common: NDArray[np.int64], names: tuple[str, ...], iou_thresholds: Sequence[float]
) -> tuple[Matched, ...]:
    """The matches of detections with regions of these categories in these images, at each threshold."""
    ids, truths, found = predictions.image_ids.array(), predictions.truths, predictions.found
    place = np.where(np.isin(ids, common), np.searchsorted(common, ids), -1)
    number = {name: label for label, name in enumerate(names)}
    label = np.array([number.get(name, -1) for name in predictions.categories], np.int64)
    asked, seen = place[truths.images.array()], place[found.images.array()]
    wanted, labels = label[truths.labels.array()], label[found.labels.array()]
    kept, held = (asked >= 0) & (wanted >= 0), (seen >= 0) & (labels >= 0)
    return match(
        GroundTruth(asked[kept], wanted[kept], truths.boxes.array()[kept], crowds=truths.crowds.array()[kept]),
        DetectionTable(seen[held], labels[held], found.boxes.array()[held], found.scores.array()[held]),
        len(common),
        len(names),
        iou_thresholds,
    )
