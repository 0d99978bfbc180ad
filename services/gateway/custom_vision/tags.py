"""The tags of a project."""

from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision.errors import BadRequest, Missing, check_name
from services.gateway.custom_vision.project_files import Json, ProjectFiles
from services.gateway.custom_vision.tag_ids import MAX_RENAMED, new_tag_id, renamed
from services.gateway.custom_vision.versions import check_version
from services.gateway.exchange import Exchange

REGULAR, NEGATIVE = TYPES = ("Regular", "Negative")


class Tags:
    """The handlers of tags."""

    def __init__(self, files: ProjectFiles) -> None:
        self._files = files

    async def create(self, exchange: Exchange) -> Response:
        """Creates a tag."""
        check_version(exchange)
        state = await self._state(exchange)
        tag: Json = {
            "name": exchange.query("name").strip(),
            "description": exchange.query("description"),
            "type": exchange.query("type") or REGULAR,
        }
        tags = state.get("tags", {})
        made = new_tag_id(exchange.path("project"), tags, tag["name"])
        await self._store(exchange, tags, made, tag)
        return JSONResponse(_tag(made, tag, 0))

    async def list_all(self, exchange: Exchange) -> Response:
        """All tags of a project."""
        check_version(exchange)
        state = await self._state(exchange)
        counts = _counts(state)
        tags = sorted(state.get("tags", {}).items(), key=lambda item: item[1]["name"])
        return JSONResponse([_tag(one, tag, counts.get(one, 0)) for one, tag in tags])

    async def get(self, exchange: Exchange) -> Response:
        """One tag."""
        check_version(exchange)
        state, wanted = await self._state(exchange), exchange.path("tag")
        return JSONResponse(_tag(wanted, known_tag(state, wanted), _counts(state).get(wanted, 0)))

    async def update(self, exchange: Exchange) -> Response:
        """Changes a tag's name, description or type; iterations keep the name with which they were trained."""
        check_version(exchange)
        state, body, wanted = await self._state(exchange), await exchange.json(), exchange.path("tag")
        changed = {key: body.text(key) for key in ("name", "description", "type") if key in body}
        tag = known_tag(state, wanted) | changed | ({"name": changed["name"].strip()} if "name" in changed else {})
        await self._store(exchange, state["tags"], wanted, tag)
        return JSONResponse(_tag(wanted, tag, _counts(state).get(wanted, 0)))

    async def delete(self, exchange: Exchange) -> Response:
        """Deletes a tag, and takes it off its images with the regions that had it."""
        check_version(exchange)
        state, gone = await self._state(exchange), exchange.path("tag")
        known_tag(state, gone)
        images: Json = {}
        for one, image in state.get("images", {}).items():
            regions = [region for region, made in image.get("regions", {}).items() if made["tagId"] == gone]
            if regions or gone in image.get("tags", {}):
                images[one] = {"tags": {gone: None}, "regions": dict.fromkeys(regions)}
        await self._change(exchange, {"tags": {gone: None}, "images": images})
        return Response(status_code=204)

    async def _store(self, exchange: Exchange, tags: Json, one: str, tag: Json) -> None:
        """Stores a tag, new or changed; BadRequest if it does not fit the project's others."""
        others = {other: known for other, known in tags.items() if other != one}
        check_name(tag["name"], "BadRequestTagName")
        if any(known["name"] == tag["name"] for known in others.values()):
            problem = f"there is a tag {tag['name']!r} already"
            raise BadRequest("BadRequestTagNameNotUnique", field="name", problem=problem)
        if tag["type"] not in TYPES:
            raise BadRequest("BadRequestTagType", field="type", problem=f"it is one of {', '.join(TYPES)}")
        if tag["type"] == NEGATIVE and any(known["type"] == NEGATIVE for known in others.values()):
            raise BadRequest("BadRequestMultipleNegativeTag", field="type", problem="another tag is the negative one")
        if len(renamed(exchange.path("project"), others | {one: tag})) > MAX_RENAMED:
            problem = f"at most {MAX_RENAMED} tags of a project can be renamed; create a tag, and move the images to it"
            raise BadRequest("BadRequestTagName", field="name", problem=problem)
        await self._change(exchange, {"tags": {one: tag}})

    async def _state(self, exchange: Exchange) -> Json:
        return await self._files.state(exchange.session, exchange.path("project"))

    async def _change(self, exchange: Exchange, patch: Json) -> None:
        await self._files.change(exchange.session, exchange.path("project"), patch)


def known_tag(state: Json, wanted: str) -> Json:
    """The project's tag; Missing."""
    found = state.get("tags", {}).get(wanted)
    if found is None:
        raise Missing("NotFoundTag", what="tag", name=wanted)
    return dict(found)


def _tag(tag: str, made: Json, count: int) -> Json:
    return {"id": tag, **made, "imageCount": count}


def _counts(state: Json) -> dict[str, int]:
    """Images by tag."""
    counts: dict[str, int] = {}
    for image in state.get("images", {}).values():
        for tag in {*image.get("tags", {}), *(region["tagId"] for region in image.get("regions", {}).values())}:
            counts[tag] = counts.get(tag, 0) + 1
    return counts
