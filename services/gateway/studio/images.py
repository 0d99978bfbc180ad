"""The images of a dataset, page by page and one by one."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from starlette.responses import Response

from services.gateway.errors import Refusal, no_path
from services.gateway.exchange import MAX_INT32, whole_number
from services.gateway.studio.datasets import dataset_of, name_of
from services.gateway.studio.thumbnails import SIDE
from services.gateway.studio.visit import Visit
from sightline.v1.dataset_service_pb2 import ReadImagesRequest, ReadImagesResponse, SnapshotImage

PAGE = 48
SCANNED = 10_000  # images that a page of one category looks at, however few it finds
MAX_BYTES = 32 * 1024**2  # of an image that is shown
YEAR_SECONDS = 365 * 24 * 3600
TAG = 16  # characters of a digest in a url
KINDS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


@dataclass(slots=True)
class Shown:
    """A page of images."""

    categories: dict[int, str] = field(default_factory=dict[int, str])
    images: list[SnapshotImage] = field(default_factory=list[SnapshotImage])
    following: int | None = None  # the id after which the next page begins; None after the last


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
        next_after=shown.following,
        first=not visit.query("after"),
    )


async def _page(visit: Visit, after: int, category: str) -> Shown:
    """The next images after an id; only records are read, and no more than SCANNED."""
    request = ReadImagesRequest(parent=name_of(visit), annotations_only=True)
    if after >= 0:
        request.after_image_id = after
    shown, scanned, last = Shown(), 0, after
    async with aclosing(visit.session.stream(visit.session.services.datasets.ReadImages, request)) as answers:
        async for answer in answers:
            shown.categories |= {one.id: one.name for one in answer.snapshot.categories}
            for image in answer.images:
                wanted = not category or category in _labels(image, shown.categories)
                if scanned == SCANNED or (wanted and len(shown.images) == PAGE):
                    shown.following = last
                    return shown
                if wanted:
                    shown.images.append(image)
                scanned, last = scanned + 1, image.image_id
    return shown


async def image(visit: Visit) -> Response:
    """The bytes of an image; Refusal if the dataset does not have it, or it is too large to show."""
    async with _announced(visit) as (found, answers):
        content = await _content(visit, answers, found.size_bytes)
    kind = next((name for start, name in KINDS if content.startswith(start)), "")
    if not kind:
        raise Refusal(no_path(visit.here))
    return Response(content, media_type=kind, headers=_keeping(visit, found))


async def thumbnail(visit: Visit) -> Response:
    """A small picture of an image; Refusal as of `image`, InvalidImage if it cannot be decoded."""
    kept = visit.site.thumbnails
    async with _announced(visit) as (found, answers):
        etag = f'"{found.sha256}-{SIDE}"'
        headers = _keeping(visit, found) | {"etag": etag}
        if etag in (one.strip() for one in visit.request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        picture = kept.found(found.sha256)
        if picture is None:
            content = await _content(visit, answers, found.size_bytes)
            picture = await kept.made(found.sha256, content, found.file_name)
    return Response(picture, media_type="image/jpeg", headers=headers)


@asynccontextmanager
async def _announced(visit: Visit) -> AsyncGenerator[tuple[SnapshotImage, AsyncGenerator[ReadImagesResponse]]]:
    """The record of the image that the path names, and the stream whose next answers have its bytes; Refusal."""
    wanted = whole_number(visit.path("image"))
    if wanted is None:
        raise Refusal(no_path(visit.here))
    request = ReadImagesRequest(parent=name_of(visit), version=visit.number("version", most=MAX_INT32))
    if wanted:
        request.after_image_id = wanted - 1
    async with aclosing(visit.session.stream(visit.session.services.datasets.ReadImages, request)) as answers:
        async for answer in answers:
            if answer.images:
                found = answer.images[0]
                if found.image_id != wanted or found.size_bytes > MAX_BYTES:
                    break
                yield found, answers
                return
    raise Refusal(no_path(visit.here))


async def _content(visit: Visit, answers: AsyncGenerator[ReadImagesResponse], size_bytes: int) -> bytes:
    """The bytes of the image that was announced last, once there is room for them; Overloaded, Throttled."""
    await visit.hold(size_bytes)
    content = bytearray()
    while len(content) < size_bytes and (answer := await anext(answers, None)):
        content += answer.chunk
    return bytes(content)


def _keeping(visit: Visit, found: SnapshotImage) -> dict[str, str]:
    """How long the browser keeps an image: for good if the url has its digest."""
    digest = visit.query("v")
    lasting = len(digest) >= TAG and found.sha256.startswith(digest)
    return {"cache-control": f"private, max-age={YEAR_SECONDS}, immutable" if lasting else "private, max-age=60"}


def _labels(image: SnapshotImage, categories: dict[int, str]) -> list[str]:
    """The names of its categories, each once."""
    ids = [image.category_id] if image.HasField("category_id") else [box.category_id for box in image.boxes]
    return list(dict.fromkeys(categories.get(one, "?") for one in ids))
