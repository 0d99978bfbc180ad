"""Predictions as a CSV file: a line for each tag or object, or for what went wrong with an image."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from sightline.cli.reporting import CommandError
from sightline.client.results.prediction import Prediction

COLUMNS = ("image", "category", "confidence", "x", "y", "width", "height", "error")


def write(file: Path, predictions: Iterable[Prediction]) -> None:
    """Writes the file; boxes are in pixels of the upright image. CommandError if that is impossible."""
    try:
        with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as target:
            lines = csv.writer(target)
            lines.writerow(COLUMNS)
            for made in predictions:
                lines.writerows(_lines(made))
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error}", fix="choose another file") from error


def _lines(made: Prediction) -> Iterator[tuple[object, ...]]:
    if made.error:
        yield made.image, "", "", "", "", "", "", made.error.message
    for tag in made.tags:
        yield made.image, tag.name, f"{tag.confidence:.6f}", "", "", "", "", ""
    for found in made.objects:
        box = found.box
        yield made.image, found.name, f"{found.confidence:.6f}", box.x, box.y, box.width, box.height, ""
