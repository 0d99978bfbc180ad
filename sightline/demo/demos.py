"""The two demos: reading handwritten digits, and finding them on photographs."""

from functools import partial

from PIL import Image

from sightline.cli.drawing import found_in
from sightline.cli.formats import percent
from sightline.cli.frames import Found
from sightline.client.results.performance import Performance
from sightline.demo import digits, scenes
from sightline.demo.runner import Demo, Goal, Results
from sightline.demo.sheets import Cell, ObjectsCell, contact_sheet, objects_sheet
from sightline.plurals import counted


def read_digits(results: Results[str], performance: Performance) -> Image.Image:
    """Each scan with the predicted digit."""
    cells: list[Cell] = []
    for file, prediction, truth in results:
        best = (prediction.tags[0].name, prediction.tags[0].confidence) if prediction.tags else ("nothing", 0.0)
        cells.append(Cell(file, *best, truth))
    quality = f"top-1 {percent(performance.accuracy_top1 or 0.0)} on {counted(performance.image_count, 'image')}"
    return contact_sheet(cells, f"Handwritten digits the model never saw  ·  {quality}")


def found_digits(results: Results[tuple[Found, ...]], performance: Performance) -> Image.Image:
    """Each image with the digits that the model finds, and the true ones."""
    cells = [ObjectsCell(file, found_in(prediction), truth) for file, prediction, truth in results]
    precision = percent(performance.mean_average_precision_50 or 0.0)
    quality = f"mAP50 {precision} on {counted(performance.image_count, 'image')}"
    return objects_sheet(cells, f"Digits the model never saw, found  ·  {quality}")


READING = Demo(
    name="digits",
    task="learns to read handwritten digits",
    images="1,797 scans, a fifth of them held out",
    write=partial(digits.write, side=64),
    budget_seconds=150,
    resolution=96,
    limit_seconds=600,
    goal=Goal("top-1 accuracy", lambda measured: measured.accuracy_top1 or 0.0, 0.95),
    shown=24,
    sheet=read_digits,
    sheet_file="predictions.png",
)
FINDING = Demo(
    name="scenes",
    task="learns to find handwritten digits on photographs",
    images="scanned digits on crops of two photographs, others held out",
    write=scenes.write,
    budget_seconds=300,
    limit_seconds=900,
    goal=Goal("mAP50", lambda measured: measured.mean_average_precision_50 or 0.0, 0.75),
    shown=9,
    sheet=found_digits,
    sheet_file="detections.png",
)
