"""Detections in a snapshot's images, by the code that serves."""

from collections.abc import Callable

import numpy as np

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.prefetch import prefetched
from services.vision.detector import Detector
from services.vision.image_detections import ImageDetections
from services.vision.inputs import Letterboxed
from services.vision.letterbox import letterbox


def predict(
    detector: Detector, scenes: Scenes, rows: Indices, size: int, threads: int, before_each: Callable[[], None]
) -> list[ImageDetections]:
    """The detections of each row, predicted `size` at a time; `before_each` batch may raise."""
    order = _by_shape(detector, scenes, rows)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    by_row: dict[int, ImageDetections] = {}
    for batch, prepared in prefetched(lambda batch: (batch, _prepared(detector, scenes, batch)), batches, threads):
        before_each()
        by_row.update(zip(batch.tolist(), detector.predict_prepared(prepared), strict=True))
    return [by_row[row] for row in rows.tolist()]


def _prepared(detector: Detector, scenes: Scenes, rows: Indices) -> list[Letterboxed]:
    """An image that has become unreadable since the start is grey: nothing is found in it."""
    prepared: list[Letterboxed] = []
    for row in rows.tolist():
        record = scenes.samples[row].record
        pixels = scenes.pixels(row, detector.rule.at_least)
        if pixels is None:
            pixels = np.full((record.height, record.width, 3), 128, np.uint8)
        prepared.append(detector.prepare_pixels(pixels, record.width, record.height))
    return prepared


def _by_shape(detector: Detector, scenes: Scenes, rows: Indices) -> Indices:
    """The rows ordered so that inputs of one shape pass through the network together."""
    frames = [letterbox(*size, detector.rule.size) for size in scenes.sizes(rows)]
    shapes = np.array([(frame.input_width, frame.input_height) for frame in frames], np.int64).reshape(-1, 2)
    return rows[np.lexsort((shapes[:, 0], shapes[:, 1]))]
