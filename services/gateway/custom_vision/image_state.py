"""What images add to a project, and how they are shown."""

import base64
import binascii
import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from services.gateway.blob_uris import BlobUris
from services.gateway.custom_vision.errors import BadRequest, Missing
from services.gateway.custom_vision.project_files import IMAGES, Json
from services.gateway.custom_vision.tags import known_tag
from services.gateway.custom_vision.times import text_of
from services.gateway.fields import Fields
from services.gateway.media import Part
from sightline.images.upright import opened, orientation_of

MAX_BATCH = 64  # images of a request
CORNERS = ("left", "top", "width", "height")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
T = TypeVar("T")


@dataclass(slots=True)
class Added:
    """What a request adds to a project."""

    images: dict[str, Json] = field(default_factory=dict[str, Json])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    results: list[Json] = field(default_factory=list[Json])


def from_parts(state: Json, parts: Iterable[Part], tags: list[str]) -> Added:
    """The images of a form, all with the same tags; BadRequest if there are too many."""
    added = Added()
    for part in _batch(part for part in parts if part.content):
        _add_file(state, added, bytes(part.content), tags, [], part.file_name)
    return added


def from_files(state: Json, body: Fields) -> Added:
    """Images in base64; BadRequest for what is not."""
    added = Added()
    for entry, tags in _entries(body):
        try:
            content = base64.b64decode(entry.required_text("contents"), validate=True)
        except binascii.Error:
            raise BadRequest(field=entry.named("contents"), problem="it is not base64") from None
        _add_file(state, added, content, tags, entry.objects("regions"), entry.text("name"))
    return added


def from_urls(state: Json, body: Fields, blobs: BlobUris) -> Added:
    """Images of the own store, whose sizes are not known."""
    added = Added()
    for entry, tags in _entries(body):
        url = entry.required_text("url")
        uri = blobs.to_store(url, entry.named("url"))
        made = _new_image(state, tags, entry.objects("regions")) | {"uri": uri, "width": 0, "height": 0}
        _add(state, added, _id(uri.encode()), made, url)
    return added


def _entries(body: Fields) -> Iterable[tuple[Fields, list[str]]]:
    """The images of a batch, each with its tags or else the batch's."""
    common = body.texts("tagIds")
    return [(entry, entry.texts("tagIds") or common) for entry in _batch(body.objects("images"))]


def _batch(images: Iterable[T]) -> list[T]:
    """The images of a request; BadRequest if there are none or too many, of which no more are looked at."""
    found = list(islice(images, MAX_BATCH + 1))
    if not found:
        raise BadRequest("BadRequestRequiredParamIsNull", field="images", problem="there are none")
    if len(found) > MAX_BATCH:
        problem = f"a request has at most {MAX_BATCH} images"
        raise BadRequest("BadRequestExceededBatchSize", field="images", problem=problem)
    return found


def _add_file(
    state: Json, added: Added, content: bytes, tags: list[str], regions: Iterable[Fields], source: str
) -> None:
    """Adds an image by its bytes; what is no image is reported, and the others are added."""
    try:
        with opened(content) as header:
            width, height = header.size
            if orientation_of(header) in SIDEWAYS:
                width, height = height, width
    except Exception:  # noqa: BLE001 - Pillow's plugins raise a dozen types on hostile bytes
        added.results.append({"sourceUrl": source, "status": "ErrorImageFormat"})
        return
    image_id = _id(content)
    made = _new_image(state, tags, regions) | {"width": width, "height": height}
    if _add(state, added, image_id, made, source):
        added.files[IMAGES + image_id] = content


def _add(state: Json, added: Added, image_id: str, made: Json, source: str) -> bool:
    """Whether the image is new; one that is there already keeps its tags and regions."""
    is_known = image_id in state.get("images", {}) or image_id in added.images
    added.results.append({"sourceUrl": source, "status": "OKDuplicate" if is_known else "OK", "added": image_id})
    if not is_known:
        added.images[image_id] = made
    return not is_known


def _id(content: bytes) -> str:
    """The same for the same bytes, so that an image is not added twice."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(content).hexdigest()))


def _new_image(state: Json, tags: list[str], regions: Iterable[Fields]) -> Json:
    now = text_of(datetime.now(UTC))
    for tag in tags:
        known_tag(state, tag)
    return {
        "created": now,
        "tags": dict.fromkeys(tags, now),
        "regions": dict(new_region(state, region) for region in regions),
    }


def new_region(state: Json, entry: Fields) -> tuple[str, Json]:
    """A new region and its id; its box is in fractions of the image."""
    tag = entry.required_text("tagId")
    known_tag(state, tag)
    numbers = {corner: entry.number(corner) for corner in CORNERS}
    if any(value is None or not -0.01 <= value <= 1.01 for value in numbers.values()):
        problem = "left, top, width and height are fractions of the image, from 0 to 1"
        raise BadRequest("BadRequestImageRegions", field=entry.named("left"), problem=problem)
    return str(uuid.uuid4()), {"tagId": tag, "created": text_of(datetime.now(UTC)), **numbers}


def tags_of(state: Json, image: Mapping[str, Any]) -> set[str]:
    """The tags of an image and of its regions, without those that were deleted."""
    regions = (region["tagId"] for region in image.get("regions", {}).values())
    return {*image.get("tags", {}), *regions} & state.get("tags", {}).keys()


def image_json(state: Json, one: str, image: Json) -> Json:
    """An image."""
    names = {tag: made["name"] for tag, made in state.get("tags", {}).items()}
    has = tags_of(state, image)
    tags = [
        {"tagId": tag, "tagName": names[tag], "created": image["tags"].get(tag, image["created"])}
        for tag in sorted(has)
    ]
    regions = [
        {"regionId": region_id, "tagName": names[region["tagId"]], **region}
        for region_id, region in image.get("regions", {}).items()
        if region["tagId"] in names
    ]
    shown: Json = {"id": one, "created": image["created"], "width": image["width"], "height": image["height"]}
    return shown | {"originalImageUri": image.get("uri", ""), "tags": tags, "regions": regions}


def known_image(state: Json, image: str) -> Json:
    """The project's image; Missing."""
    found = state.get("images", {}).get(image)
    if found is None:
        raise Missing("NotFoundImage", what="image", name=image)
    return dict(found)
