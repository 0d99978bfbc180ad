"""Reads single images of a dataset; whoever has a stream feeds it."""

from sightline.client.results.samples import Sample, SampleBox
from sightline.v1 import dataset_service_pb2 as service

MAX_BYTES = 8 << 20  # of an image that is read, as in ListDatasetSamples


class ImageRead:
    """One image with its annotations. `request` is for ReadImages, which would send the images after it too."""

    def __init__(self, dataset: str, version: int, image_id: int) -> None:
        self.request = service.ReadImagesRequest(parent=dataset, version=version)
        if image_id > 0:
            self.request.after_image_id = image_id - 1
        self._image_id = image_id
        self._names: dict[int, str] = {}
        self._image: service.SnapshotImage | None = None
        self._content = bytearray()

    def take(self, message: service.ReadImagesResponse) -> bool:
        """Takes the next message of the stream; whether no other one is needed."""
        if message.HasField("snapshot"):  # a stream that broke begins again
            self._names = {one.id: one.name for one in message.snapshot.categories}
            self._image, self._content = None, bytearray()
            return False
        if message.images:
            if self._image is not None or message.images[0].image_id != self._image_id:
                return True
            self._image = message.images[0]
            return self._image.size_bytes > MAX_BYTES
        self._content += message.chunk
        return self._image is not None and len(self._content) >= self._image.size_bytes

    def sample(self) -> Sample | None:
        """The image, without its bytes if they are too many; None if the dataset has no such image."""
        image = self._image
        if image is None:
            return None
        boxes = (SampleBox(one.x, one.y, one.width, one.height, self._name(one.category_id)) for one in image.boxes)
        return Sample(
            image_id=image.image_id,
            file=image.file_name,
            width=image.width,
            height=image.height,
            category=self._name(image.category_id) if image.HasField("category_id") else "",
            boxes=tuple(boxes),
            image=bytes(self._content) if len(self._content) == image.size_bytes else b"",
        )

    def _name(self, category_id: int) -> str:
        return self._names.get(category_id, "")
