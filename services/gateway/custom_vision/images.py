"""The images of a project, with their tags and regions."""

import asyncio
from datetime import UTC, datetime

from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision.errors import BadRequest
from services.gateway.custom_vision.image_state import (
    Added,
    from_files,
    from_parts,
    from_urls,
    image_json,
    known_image,
    new_region,
    tags_of,
)
from services.gateway.custom_vision.project_files import Json, ProjectFiles
from services.gateway.custom_vision.tags import known_tag
from services.gateway.custom_vision.times import text_of
from services.gateway.custom_vision.versions import check_version
from services.gateway.exchange import MAX_INT32, Exchange, whole_number

TAKE, MAX_TAKE = 50, 256


class Images:
    """The handlers of images."""

    def __init__(self, files: ProjectFiles) -> None:
        self._files = files

    async def create_from_data(self, exchange: Exchange) -> Response:
        """Adds the images of a form, all with the same tags."""
        check_version(exchange)
        state = await self._state(exchange)
        media = await exchange.media(exchange.settings.max_image_batch_bytes)
        tags = _ids(exchange, "tagIds")
        added = await asyncio.to_thread(from_parts, state, media.parts, tags)
        return await self._stored(exchange, state, added)

    async def create_from_files(self, exchange: Exchange) -> Response:
        """Adds images in base64, each with its own tags and regions."""
        check_version(exchange)
        state = await self._state(exchange)
        body = await exchange.json(exchange.settings.max_image_batch_bytes)
        added = await asyncio.to_thread(from_files, state, body)
        return await self._stored(exchange, state, added)

    async def create_from_urls(self, exchange: Exchange) -> Response:
        """Adds images of the own store, which stay where they are."""
        check_version(exchange)
        state, body = await self._state(exchange), await exchange.json()
        added = await asyncio.to_thread(from_urls, state, body, exchange.settings.blob_uris)
        return await self._stored(exchange, state, added)

    async def list_some(self, exchange: Exchange) -> Response:
        """A page of the images: all, or those with or without a tag."""
        check_version(exchange)
        state = await self._state(exchange)
        skip, take = _number(exchange, "skip", 0, MAX_INT32), _number(exchange, "take", TAKE, MAX_TAKE)
        chosen = _chosen(exchange, state)
        newest = exchange.query("orderBy") == "Newest"
        chosen.sort(key=lambda item: (item[1]["created"], item[0]), reverse=newest)
        return JSONResponse([image_json(state, one, image) for one, image in chosen[skip : skip + take]])

    async def count(self, exchange: Exchange) -> Response:
        """How many images there are, of those that the same list would have."""
        check_version(exchange)
        return JSONResponse(len(_chosen(exchange, await self._state(exchange))))

    async def by_ids(self, exchange: Exchange) -> Response:
        """The images of these ids."""
        check_version(exchange)
        state, wanted = await self._state(exchange), _ids(exchange, "imageIds")
        return JSONResponse([image_json(state, one, known_image(state, one)) for one in wanted])

    async def delete(self, exchange: Exchange) -> Response:
        """Removes images from the project."""
        check_version(exchange)
        state = await self._state(exchange)
        every = exchange.query("allImages").lower() == "true"
        gone = list(state.get("images", {})) if every else _ids(exchange, "imageIds")
        for one in gone:
            known_image(state, one)
        await self._change(exchange, {"images": dict.fromkeys(gone)})
        return Response(status_code=204)

    async def tag(self, exchange: Exchange) -> Response:
        """Tags images."""
        check_version(exchange)
        state, body, now = await self._state(exchange), await exchange.json(), text_of(datetime.now(UTC))
        created: list[Json] = []
        patch: dict[str, Json] = {}
        for entry in body.objects("tags"):
            image, tag = entry.required_text("imageId"), entry.required_text("tagId")
            known_image(state, image)
            known_tag(state, tag)
            patch.setdefault(image, {}).setdefault("tags", {})[tag] = now
            created.append({"imageId": image, "tagId": tag})
        await self._change(exchange, {"images": patch})
        return JSONResponse({"created": created, "duplicated": [], "exceeded": []})

    async def untag(self, exchange: Exchange) -> Response:
        """Takes tags off images."""
        check_version(exchange)
        state, tags = await self._state(exchange), _ids(exchange, "tagIds")
        images = _ids(exchange, "imageIds")
        for image in images:
            known_image(state, image)
        await self._change(exchange, {"images": {image: {"tags": dict.fromkeys(tags)} for image in images}})
        return Response(status_code=204)

    async def add_regions(self, exchange: Exchange) -> Response:
        """Adds regions to images."""
        check_version(exchange)
        state, body = await self._state(exchange), await exchange.json()
        patch: dict[str, Json] = {}
        created: list[Json] = []
        for entry in body.objects("regions"):
            image = entry.required_text("imageId")
            known_image(state, image)
            region_id, region = new_region(state, entry)
            patch.setdefault(image, {"regions": {}})["regions"][region_id] = region
            name = state["tags"][region["tagId"]]["name"]
            created.append({"imageId": image, "regionId": region_id, "tagName": name, **region})
        await self._change(exchange, {"images": patch})
        return JSONResponse({"created": created, "duplicated": [], "exceeded": []})

    async def delete_regions(self, exchange: Exchange) -> Response:
        """Removes regions."""
        check_version(exchange)
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
        if added.images:
            patch: Json = {"images": added.images}
            await self._files.change(exchange.session, exchange.path("project"), patch, added.files)
        good = all(one["status"].startswith("OK") for one in added.results)
        for result in added.results:
            if image := result.pop("added", None):
                result["image"] = image_json(state, image, added.images.get(image) or state["images"][image])
        return JSONResponse({"isBatchSuccessful": good, "images": added.results}, 200 if good else 207)


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


def _ids(exchange: Exchange, name: str) -> list[str]:
    """The ids in a parameter, separated by commas, or given several times."""
    values = exchange.queries(name)
    return list(dict.fromkeys(one.strip() for value in values for one in value.split(",") if one.strip()))


def _number(exchange: Exchange, name: str, default: int, most: int) -> int:
    text = exchange.query(name)
    number = whole_number(text, most) if text else default
    if number is None:
        raise BadRequest(field=name, problem=f"it must be a whole number, at most {most}")
    return number
