"""The two demos: handwritten digits are read, or found on photographs."""

from functools import partial

from PIL import Image

from sightline.cli.drawings import found_in
from sightline.cli.formats import percent
from sightline.cli.frames import Found
from sightline.client.plurals import counted
from sightline.client.results.performance import Performance
from sightline.demo import digits, scenes
from sightline.demo.sheets import Cell, ObjectsCell, contact_sheet, objects_sheet
from sightline.demo.story import Answers, Promise, Story


def read_digits(answers: Answers[str], performance: Performance) -> Image.Image:
    """Each scan with the name that the model gives it."""
    cells: list[Cell] = []
    for file, answer, truth in answers:
        best = (answer.tags[0].name, answer.tags[0].confidence) if answer.tags else ("nothing", 0.0)
        cells.append(Cell(file, *best, truth))
    quality = f"top-1 {percent(performance.accuracy_top1 or 0.0)} on {counted(performance.image_count, 'image')}"
    return contact_sheet(cells, f"Handwritten digits the model never saw  ·  {quality}")


def found_digits(answers: Answers[tuple[Found, ...]], performance: Performance) -> Image.Image:
    """Each picture with the digits that the model finds in it, and those that are there."""
    cells = [ObjectsCell(file, found_in(answer), truth) for file, answer, truth in answers]
    precision = percent(performance.mean_average_precision_50 or 0.0)
    quality = f"mAP50 {precision} on {counted(performance.image_count, 'picture')}"
    return objects_sheet(cells, f"Digits the model never saw, found  ·  {quality}")


READING = Story(
    name="digits",
    claim="learns to read handwritten digits",
    images="1,797 scans, a fifth of them held out",
    write=partial(digits.write, side=64),
    budget_seconds=150,
    limit_seconds=600,
    promise=Promise("top-1 accuracy", lambda measured: measured.accuracy_top1 or 0.0, 0.95),
    shown=24,
    sheet=read_digits,
    picture="predictions.png",
)
FINDING = Story(
    name="scenes",
    claim="learns to find handwritten digits on photographs",
    images="scanned digits on pieces of two photographs, others held out",
    write=scenes.write,
    budget_seconds=300,
    limit_seconds=900,
    promise=Promise("mAP50", lambda measured: measured.mean_average_precision_50 or 0.0, 0.75),
    shown=9,
    sheet=found_digits,
    picture="detections.png",
)
