"""The two demos: handwritten digits are read, or found on photographs."""

from functools import partial

from PIL import Image

from sightline.cli.formats import percent
from sightline.cli.frames import Found
from sightline.cli.pictures import found_in
from sightline.client.plurals import counted
from sightline.demo import digits, scenes
from sightline.demo.sheets import Cell, ObjectsCell, contact_sheet, objects_sheet
from sightline.demo.story import Answers, Promise, Story
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import TrainingParameters
from sightline.v1.performance_pb2 import ModelPerformance


def read_digits(answers: Answers[str], performance: ModelPerformance) -> Image.Image:
    """Each scan with the name that the model gives it."""
    cells: list[Cell] = []
    for file, answer, truth in answers:
        tags = answer.custom_model_result.tags_result.values
        best = (tags[0].name, tags[0].confidence) if tags else ("nothing", 0.0)
        cells.append(Cell(file, *best, truth))
    quality = f"top-1 {percent(performance.accuracy_top1)} on {counted(performance.image_count, 'image')}"
    return contact_sheet(cells, f"Handwritten digits the model never saw  ·  {quality}")


def found_digits(answers: Answers[tuple[Found, ...]], performance: ModelPerformance) -> Image.Image:
    """Each picture with the digits that the model finds in it, and those that are there."""
    cells = [ObjectsCell(file, found_in(answer), truth) for file, answer, truth in answers]
    quality = f"mAP50 {percent(performance.mean_average_precision_50)} on {counted(performance.image_count, 'picture')}"
    return objects_sheet(cells, f"Digits the model never saw, found  ·  {quality}")


READING = Story(
    name="digits",
    claim="learns to read handwritten digits",
    images="1,797 scans, a fifth of them held out",
    annotations=Dataset.IMAGE_CLASSIFICATION,
    model=TrainingParameters.GENERIC_CLASSIFIER,
    write=partial(digits.write, side=64),
    budget_seconds=150,
    limit_seconds=600,
    promise=Promise("top-1 accuracy", lambda measured: measured.accuracy_top1, 0.95),
    shown=24,
    sheet=read_digits,
    picture="predictions.png",
)
FINDING = Story(
    name="scenes",
    claim="learns to find handwritten digits on photographs",
    images="scanned digits on pieces of two photographs, others held out",
    annotations=Dataset.OBJECT_DETECTION,
    model=TrainingParameters.GENERIC_DETECTOR,
    write=scenes.write,
    budget_seconds=300,
    limit_seconds=900,
    promise=Promise("mAP50", lambda measured: measured.mean_average_precision_50, 0.75),
    shown=9,
    sheet=found_digits,
    picture="detections.png",
)
