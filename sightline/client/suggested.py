"""Drafts a dataset of the images that a predictor suggests; whoever has the stream feeds it."""

import hashlib
from datetime import UTC
from pathlib import Path

from sightline.client.errors import ExportRefused
from sightline.client.progress import Step
from sightline.client.results.export import Draft
from sightline.exporters.forms import ANNOTATIONS, export
from sightline.exporters.model import Box, ExportFormat, Image, Snapshot
from sightline.exporters.names import safe_part
from sightline.plurals import counted
from sightline.v1 import prediction_pb2
from sightline.v1.prediction_service_pb2 import SuggestImagesRequest, SuggestImagesResponse

IMAGES = "images"


class Drafting:
    """A folder with the suggested images, and the model's answers as their annotations.

    The annotations are written last: a folder without them is incomplete.
    """

    def __init__(self, model: str, folder: Path, count: int) -> None:
        """ExportRefused if the folder has files."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportRefused(f"{folder} is not empty", fix="name another folder, or one that does not exist yet")
        self.request = SuggestImagesRequest(model_name=model, max_images=count)
        self._model, self._folder = model, folder
        self._taken: set[str] = set()
        self._images: list[Image] = []
        self._categories: dict[str, int] = {}  # numbers by name
        self._detects = False

    def take(self, message: SuggestImagesResponse) -> Step:
        """Takes the next message of the stream, which may have been opened again, and writes its image."""
        if message.image_id not in self._taken:
            self._taken.add(message.image_id)
            self._images.append(self._written(message))
        count = len(self._images)
        return count / self.request.max_images, "receiving", counted(count, "image")

    def finish(self) -> Draft:
        """Writes the annotations, once the stream has ended."""
        categories = {number: name for name, number in self._categories.items()}
        drafted = Snapshot(f"suggested for {self._model}", "", self._detects, categories, self._images)
        if self._images:
            documents = export(drafted, ExportFormat.COCO).documents
            (self._folder / ANNOTATIONS).write_bytes(documents[ANNOTATIONS])
        return Draft(folder=self._folder, image_count=len(self._images), detection=self._detects)

    def _written(self, message: SuggestImagesResponse) -> Image:
        rank, moment = len(self._images) + 1, message.create_time.ToDatetime(UTC)
        file = safe_part(f"{rank:04}-{moment:%Y%m%dT%H%M%S}-{message.image_id}.{message.extension}")
        name = f"{IMAGES}/{file}"
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(message.image)
        answer = message.prediction
        result = answer.custom_model_result
        self._detects = result.HasField("objects_result")
        for tag in (*result.tags_result.values, *(one.tags[0] for one in result.objects_result.values)):
            self._number(tag.name)
        return Image(
            id=rank,
            file_name=name,
            width=answer.metadata.width,
            height=answer.metadata.height,
            size_bytes=len(message.image),
            sha256=hashlib.sha256(message.image).hexdigest(),
            extension=message.extension,
            category_id=self._number(result.tags_result.values[0].name) if result.tags_result.values else None,
            boxes=tuple(self._box(one) for one in result.objects_result.values),
        )

    def _box(self, one: prediction_pb2.DetectedObject) -> Box:
        box = one.bounding_box
        return Box(self._number(one.tags[0].name), float(box.x), float(box.y), float(box.w), float(box.h))

    def _number(self, name: str) -> int:
        return self._categories.setdefault(name, len(self._categories) + 1)
