"""The images of a project, with their tags and regions."""

import base64
import binascii
import hashlib
import io
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from PIL import Image, UnidentifiedImageError
from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision.errors import BadRequest, Missing
from services.gateway.custom_vision.predictions import check_version
from services.gateway.custom_vision.project_files import IMAGES, Json, ProjectFiles
from services.gateway.custom_vision.projects import VERSIONS, known_tag
from services.gateway.custom_vision.times import text_of
from services.gateway.exchange import Exchange
from services.gateway.fields import Fields
from sightline.images.upright import FORMATS

MAX_BATCH = 64  # images of a request
TAKE, MAX_TAKE = 50, 256
CORNERS = ("left", "top", "width", "height")


@dataclass(slots=True)
class Added:
    """What a request adds to a project."""

    images: dict[str, Json] = field(default_factory=dict[str, Json])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    results: list[Json] = field(default_factory=list[Json])


class Images:
    """The handlers of images."""

    def __init__(self, files: ProjectFiles) -> None:
        self._files = files

    async def create_from_data(self, exchange: Exchange) -> Response:
        """Adds the images of a form, all with the same tags."""
        check_version(exchange, VERSIONS)
        state = await self._state(exchange)
        media = await exchange.media(exchange.settings.max_image_batch_bytes)
        tags, added = _ids(exchange, "tagIds"), Added()
        for part in media.parts:
            if part.content:
                _add_file(state, added, bytes(part.content), tags, [], part.file_name)
        return await self._stored(exchange, state, added)

    async def create_from_files(self, exchange: Exchange) -> Response:
        """Adds images in base64, each with its own tags and regions."""
        check_version(exchange, VERSIONS)
        state = await self._state(exchange)
        body, added = await exchange.json(exchange.settings.max_image_batch_bytes), Added()
        for entry, tags in _entries(body):
            try:
                content = base64.b64decode(entry.required_text("contents"), validate=True)
            except binascii.Error:
                raise BadRequest(field=entry.named("contents"), problem="it is not base64") from None
            _add_file(state, added, content, tags, entry.objects("regions"), entry.text("name"))
        return await self._stored(exchange, state, added)

    async def create_from_urls(self, exchange: Exchange) -> Response:
        """Adds images of the own store, which stay where they are."""
        check_version(exchange, VERSIONS)
        state = await self._state(exchange)
        body, added = await exchange.json(), Added()
        for entry, tags in _entries(body):
            url = entry.required_text("url")
            uri = exchange.settings.blob_uris.to_store(url)
            made = _image(state, tags, entry.objects("regions")) | {"uri": uri, "width": 0, "height": 0}
            _add(state, added, _id(exchange.path("project"), uri.encode()), made, url)
        return await self._stored(exchange, state, added)

    async def list_some(self, exchange: Exchange) -> Response:
        """A page of the images: all, or those with or without a tag."""
        check_version(exchange, VERSIONS)
        state = await self._state(exchange)
        skip, take = _number(exchange, "skip", 0, 2**31 - 1), _number(exchange, "take", TAKE, MAX_TAKE)
        chosen = _chosen(exchange, state)
        newest = exchange.query("orderBy") == "Newest"
        chosen.sort(key=lambda item: (item[1]["created"], item[0]), reverse=newest)
        return JSONResponse([_shown(state, one, image) for one, image in chosen[skip : skip + take]])

    async def count(self, exchange: Exchange) -> Response:
        """How many images there are, of those that the same list would have."""
        check_version(exchange, VERSIONS)
        return JSONResponse(len(_chosen(exchange, await self._state(exchange))))

    async def by_ids(self, exchange: Exchange) -> Response:
        """The images of these ids."""
        check_version(exchange, VERSIONS)
        state, wanted = await self._state(exchange), _ids(exchange, "imageIds")
        return JSONResponse([_shown(state, one, _known(state, one)) for one in wanted])

    async def delete(self, exchange: Exchange) -> Response:
        """Removes images from the project."""
        check_version(exchange, VERSIONS)
        state = await self._state(exchange)
        every = exchange.query("allImages").lower() == "true"
        gone = list(state.get("images", {})) if every else _ids(exchange, "imageIds")
        for one in gone:
            _known(state, one)
        await self._change(exchange, {"images": dict.fromkeys(gone)})
        return Response(status_code=204)

    async def tag(self, exchange: Exchange) -> Response:
        """Tags images."""
        check_version(exchange, VERSIONS)
        state, body, now = await self._state(exchange), await exchange.json(), text_of(datetime.now(UTC))
        created: list[Json] = []
        patch: dict[str, Json] = {}
        for entry in body.objects("tags"):
            image, tag = entry.required_text("imageId"), entry.required_text("tagId")
            _known(state, image)
            known_tag(state, tag)
            patch.setdefault(image, {}).setdefault("tags", {})[tag] = now
            created.append({"imageId": image, "tagId": tag})
        await self._change(exchange, {"images": patch})
        return JSONResponse({"created": created, "duplicated": [], "exceeded": []})

    async def untag(self, exchange: Exchange) -> Response:
        """Takes tags off images."""
        check_version(exchange, VERSIONS)
        state, tags = await self._state(exchange), _ids(exchange, "tagIds")
        images = _ids(exchange, "imageIds")
        for image in images:
            _known(state, image)
        await self._change(exchange, {"images": {image: {"tags": dict.fromkeys(tags)} for image in images}})
        return Response(status_code=204)

    async def add_regions(self, exchange: Exchange) -> Response:
        """Adds regions to images."""
        check_version(exchange, VERSIONS)
        state, body = await self._state(exchange), await exchange.json()
        patch: dict[str, Json] = {}
        created: list[Json] = []
        for entry in body.objects("regions"):
            image = entry.required_text("imageId")
            _known(state, image)
            region_id, region = _region(state, entry)
            patch.setdefault(image, {"regions": {}})["regions"][region_id] = region
            name = state["tags"][region["tagId"]]["name"]
            created.append({"imageId": image, "regionId": region_id, "tagName": name, **region})
        await self._change(exchange, {"images": patch})
        return JSONResponse({"created": created, "duplicated": [], "exceeded": []})

    async def delete_regions(self, exchange: Exchange) -> Response:
        """Removes regions."""
        check_version(exchange, VERSIONS)
        state, gone = await self._state(exchange), set(_ids(exchange, "regionIds"))
        patch = {
            image_id: {"regions": {region: None for region in image.get("regions", {}) if region in gone}}
            for image_id, image in state.get("images", {}).items()
            if gone & image.get("regions", {}).keys()
        }
        await self._change(exchange, {"images": patch})
        return Response(status_code=204)

    async def _state(self, exchange: Exchange) -> Json:
        return await self._files.state(exchange.session, exchange.path("project"))

    async def _change(self, exchange: Exchange, patch: Json) -> None:
        await self._files.change(exchange.session, exchange.path("project"), patch)

    async def _stored(self, exchange: Exchange, state: Json, added: Added) -> Response:
        if not added.results:
            raise BadRequest("BadRequestRequiredParamIsNull", field="images", problem="there are none")
        if len(added.results) > MAX_BATCH:
            problem = f"a request has at most {MAX_BATCH} images"
            raise BadRequest("BadRequestExceededBatchSize", field="images", problem=problem)
        if added.images:
            patch: Json = {"images": added.images}
            await self._files.change(exchange.session, exchange.path("project"), patch, added.files)
        good = all(one["status"].startswith("OK") for one in added.results)
        for result in added.results:
            if image := result.pop("added", None):
                result["image"] = _shown(state, image, added.images.get(image) or state["images"][image])
        return JSONResponse({"isBatchSuccessful": good, "images": added.results}, 200 if good else 207)


def _entries(body: Fields) -> Iterable[tuple[Fields, list[str]]]:
    """The images of a batch, each with its tags or else the batch's."""
    common = body.texts("tagIds")
    return [(entry, entry.texts("tagIds") or common) for entry in body.objects("images")]


def _add_file(state: Json, added: Added, content: bytes, tags: list[str], regions: list[Fields], source: str) -> None:
    """Adds an image by its bytes; what is no image is reported, and the others are added."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as header:
            width, height = header.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        added.results.append({"sourceUrl": source, "status": "ErrorImageFormat"})
        return
    image_id = _id("", content)
    made = _image(state, tags, regions) | {"width": width, "height": height}
    if _add(state, added, image_id, made, source):
        added.files[IMAGES + image_id] = content


def _add(state: Json, added: Added, image_id: str, made: Json, source: str) -> bool:
    """Whether the image is new; one that is there already keeps its tags and regions."""
    is_known = image_id in state.get("images", {}) or image_id in added.images
    added.results.append({"sourceUrl": source, "status": "OKDuplicate" if is_known else "OK", "added": image_id})
    if not is_known:
        added.images[image_id] = made
    return not is_known


def _id(scope: str, content: bytes) -> str:
    """The same for the same bytes, so that an image is not added twice."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{scope}{hashlib.sha256(content).hexdigest()}"))


def _image(state: Json, tags: list[str], regions: list[Fields]) -> Json:
    now = text_of(datetime.now(UTC))
    for tag in tags:
        known_tag(state, tag)
    return {
        "created": now,
        "tags": dict.fromkeys(tags, now),
        "regions": dict(_region(state, region) for region in regions),
    }


def _region(state: Json, entry: Fields) -> tuple[str, Json]:
    """A new region and its id; its box is in fractions of the image."""
    tag = entry.required_text("tagId")
    known_tag(state, tag)
    numbers = {corner: entry.number(corner) for corner in CORNERS}
    if any(value is None or not -0.01 <= value <= 1.01 for value in numbers.values()):
        problem = "left, top, width and height are fractions of the image, from 0 to 1"
        raise BadRequest("BadRequestImageRegions", field=entry.named("left"), problem=problem)
    return str(uuid.uuid4()), {"tagId": tag, "created": text_of(datetime.now(UTC)), **numbers}


def _chosen(exchange: Exchange, state: Json) -> list[tuple[str, Json]]:
    """The images that a list's path and parameters ask for."""
    wanted, path = set(_ids(exchange, "tagIds")), exchange.request.url.path
    tagged = exchange.query("taggingStatus").lower()
    only = "untagged" if "/untagged" in path or tagged == "untagged" else "tagged" if "/tagged" in path else tagged
    found: list[tuple[str, Json]] = []
    for one, image in state.get("images", {}).items():
        has = tags_of(state, image)
        if (only == "tagged" and not has) or (only == "untagged" and has) or (wanted and not wanted & has):
            continue
        found.append((one, image))
    return found


def tags_of(state: Json, image: Mapping[str, Any]) -> set[str]:
    """The tags of an image and of its regions, without those that were deleted."""
    regions = (region["tagId"] for region in image.get("regions", {}).values())
    return {*image.get("tags", {}), *regions} & state.get("tags", {}).keys()


def _shown(state: Json, one: str, image: Json) -> Json:
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


def _known(state: Json, image: str) -> Json:
    found = state.get("images", {}).get(image)
    if found is None:
        raise Missing("NotFoundImage", what="image", name=image[:100])
    return dict(found)


def _ids(exchange: Exchange, name: str) -> list[str]:
    """The ids in a parameter, separated by commas, or given several times."""
    values = exchange.queries(name)
    return list(dict.fromkeys(one.strip() for value in values for one in value.split(",") if one.strip()))


def _number(exchange: Exchange, name: str, default: int, most: int) -> int:
    text = exchange.query(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text[:11]) <= most):
        raise BadRequest(field=name, problem=f"it must be a whole number, at most {most}")
    return int(text)
