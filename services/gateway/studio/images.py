"""The images of a dataset, page by page and one by one."""

from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.responses import Response

from services.gateway.errors import Refusal, no_path
from services.gateway.studio.datasets import dataset_of, name_of
from services.gateway.studio.visit import Visit
from sightline.v1.dataset_service_pb2 import ReadImagesRequest, SnapshotImage

PAGE = 48
MAX_BYTES = 32 * 1024**2  # of an image that is shown
YEAR_SECONDS = 365 * 24 * 3600
KINDS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


@dataclass(slots=True)
class Shown:
    """A page of images."""

    categories: dict[int, str] = field(default_factory=dict[int, str])
    images: list[SnapshotImage] = field(default_factory=list[SnapshotImage])
    more: bool = False


async def browse(visit: Visit) -> Response:
    """A page of the images, all of them or those of one category."""
    dataset = await dataset_of(visit)
    category = visit.query("category")
    shown = await _page(visit, visit.number("after", -1), category)
    rows = [(image, _labels(image, shown.categories)) for image in shown.images]
    return await visit.page(
        "images.html",
        dataset=dataset,
        rows=rows,
        category=category,
        categories=list(shown.categories.values()),
        next_after=shown.images[-1].image_id if shown.more else None,
        first=not visit.query("after"),
    )


async def _page(visit: Visit, after: int, category: str) -> Shown:
    """The next images after an id; only their records are read."""
    request = ReadImagesRequest(parent=name_of(visit), annotations_only=True)
    if after >= 0:
        request.after_image_id = after
    shown = Shown()
    async with aclosing(visit.session.stream(visit.session.services.datasets.ReadImages, request)) as answers:
        async for answer in answers:
            shown.categories |= {one.id: one.name for one in answer.snapshot.categories}
            for image in answer.images:
                if category and category not in _labels(image, shown.categories):
                    continue
                if len(shown.images) == PAGE:
                    shown.more = True
                    return shown
                shown.images.append(image)
    return shown


async def image(visit: Visit) -> Response:
    """The bytes of an image; Refusal if the dataset does not have it, or it is too large to show."""
    if not visit.path("image").isdecimal():
        raise Refusal(no_path(visit.here))
    wanted = int(visit.path("image")[:18])
    request = ReadImagesRequest(parent=name_of(visit), version=visit.number("version"))
    if wanted:
        request.after_image_id = wanted - 1
    content = bytearray()
    async with aclosing(visit.session.stream(visit.session.services.datasets.ReadImages, request)) as answers:
        announced: SnapshotImage | None = None
        async for answer in answers:
            if answer.images:
                if announced or answer.images[0].image_id != wanted or answer.images[0].size_bytes > MAX_BYTES:
                    break
                announced = answer.images[0]
            content += answer.chunk
    kind = next((name for start, name in KINDS if content.startswith(start)), "")
    if not kind:
        raise Refusal(no_path(visit.here))
    kept = YEAR_SECONDS if visit.query("v") else 60
    return Response(bytes(content), media_type=kind, headers={"cache-control": f"private, max-age={kept}"})


def _labels(image: SnapshotImage, categories: dict[int, str]) -> list[str]:
    """The names of its categories, each once."""
    ids = [image.category_id] if image.HasField("category_id") else [box.category_id for box in image.boxes]
    return list(dict.fromkeys(categories.get(one, "?") for one in ids))
