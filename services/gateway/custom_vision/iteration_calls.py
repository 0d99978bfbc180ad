"""Iterations: listed, renamed, measured, published, exported and deleted."""

from collections.abc import AsyncIterator

from google.protobuf.field_mask_pb2 import FieldMask
from starlette.responses import JSONResponse, Response, StreamingResponse

from services.gateway.custom_vision import iterations
from services.gateway.custom_vision.errors import MAX_NAME, BadRequest, Missing, check_name
from services.gateway.custom_vision.iteration_json import iteration_json, performance_json, status
from services.gateway.custom_vision.versions import check_version
from services.gateway.exchange import Exchange
from sightline.v1 import model_service_pb2 as pb
from sightline.v1.model_pb2 import Model


async def list_all(exchange: Exchange) -> Response:
    """All iterations of a project, the oldest first."""
    check_version(exchange)
    models = [model async for model in iterations.of_project(exchange.session, exchange.path("project"))]
    models.sort(key=lambda model: model.create_time.ToNanoseconds())
    return JSONResponse([iteration_json(model) for model in models])


async def get(exchange: Exchange) -> Response:
    """One iteration."""
    check_version(exchange)
    return JSONResponse(iteration_json(await _current(exchange)))


async def update(exchange: Exchange) -> Response:
    """Renames an iteration."""
    check_version(exchange)
    name = (await exchange.json()).required_text("name")
    changed = await _with_property(exchange, await _current(exchange), iterations.NAME, name[:MAX_NAME])
    return JSONResponse(iteration_json(changed))


async def delete(exchange: Exchange) -> Response:
    """Deletes an iteration that is not published."""
    check_version(exchange)
    found = await _current(exchange)
    if found.custom_properties.get(iterations.PUBLISHED):
        raise BadRequest("BadRequestIterationIsPublished", field="iteration", problem="unpublish it first")
    await iterations.remove(exchange.session, found)
    return Response(status_code=204)


async def performance(exchange: Exchange) -> Response:
    """How well an iteration does; the thresholds of the request have no effect."""
    check_version(exchange)
    found = await _current(exchange, Model.FULL)
    if not found.HasField("performance"):
        name = exchange.path("iteration")
        raise Missing("NotFoundIterationPerformance", what="performance yet of iteration", name=name)
    return JSONResponse(performance_json(exchange.path("project"), found))


async def publish(exchange: Exchange) -> Response:
    """Gives an iteration a name for predictions; with `overwrite`, takes it from another one."""
    check_version(exchange)
    name, found = exchange.query("publishName").strip(), await _current(exchange)
    check_name(name, "BadRequestInvalidPublishName", "publishName")
    if "/" in name:
        raise BadRequest("BadRequestInvalidPublishName", field="publishName", problem="a name has no slash")
    if status(found) != "Completed":
        raise BadRequest("BadRequestIterationIsNotTrained", field="iteration", problem="it is not trained yet")
    async for other in iterations.of_project(exchange.session, exchange.path("project")):
        if other.name != found.name and other.custom_properties.get(iterations.PUBLISHED) == name:
            if exchange.query("overwrite").lower() != "true":
                problem = f"another iteration is published as {name!r}; set overwrite to replace it"
                raise BadRequest("BadRequestInvalidPublishName", field="publishName", problem=problem)
            await _with_property(exchange, other, iterations.PUBLISHED, "")
    await _with_property(exchange, found, iterations.PUBLISHED, name)
    return JSONResponse(content=True)


async def unpublish(exchange: Exchange) -> Response:
    """Takes the name for predictions off an iteration."""
    check_version(exchange)
    found = await _current(exchange)
    if not found.custom_properties.get(iterations.PUBLISHED):
        raise BadRequest("BadRequestIterationNotPublished", field="iteration", problem="it is not published")
    await _with_property(exchange, found, iterations.PUBLISHED, "")
    return Response(status_code=204)


async def export(exchange: Exchange) -> Response:
    """Says where the iteration's file for a platform is: ONNX, which runs on all of them."""
    check_version(exchange)
    if exchange.query("platform").upper() != "ONNX":
        problem = "models are exported for the platform ONNX only"
        raise BadRequest("BadRequestProjectUnsupportedExportPlatform", field="platform", problem=problem)
    await _current(exchange)
    return JSONResponse(_export(exchange))


async def exports(exchange: Exchange) -> Response:
    """The exports of an iteration: it can always be had, so there is one."""
    check_version(exchange)
    return JSONResponse([_export(exchange)] if status(await _current(exchange)) == "Completed" else [])


async def download(exchange: Exchange) -> Response:
    """The iteration's file, with the caller's key as everywhere."""
    check_version(exchange)
    found = await _current(exchange)
    request = pb.ExportModelRequest(name=found.name, format=pb.ExportModelRequest.ONNX)
    parts = exchange.session.stream(exchange.session.services.models.ExportModel, request)
    first = await anext(parts)

    async def chunks() -> AsyncIterator[bytes]:
        async for part in parts:
            yield part.chunk

    headers = {"content-disposition": f'attachment; filename="{exchange.path("iteration")}.zip"'}
    if first.header.size_bytes:
        headers["content-length"] = str(first.header.size_bytes)
    return StreamingResponse(chunks(), headers=headers, media_type="application/zip")


def _export(exchange: Exchange) -> dict[str, object]:
    url = exchange.request.url.replace(query="")
    uri = f"{str(url).rstrip('/')}/ONNX"
    return {"platform": "ONNX", "status": "Done", "downloadUri": uri, "newerVersionAvailable": False}


async def _current(exchange: Exchange, view: "Model.View.ValueType" = Model.BASIC) -> Model:
    return await iterations.get(exchange.session, exchange.path("project"), exchange.path("iteration"), view)


async def _with_property(exchange: Exchange, model: Model, name: str, value: str) -> Model:
    """Sets a custom property, or removes it; fails if the model has changed meanwhile."""
    properties = {**model.custom_properties, name: value}
    kept = {key: text for key, text in properties.items() if text}
    changed = Model(name=model.name, etag=model.etag, custom_properties=kept)
    request = pb.UpdateModelRequest(model=changed, update_mask=FieldMask(paths=["custom_properties"]))
    return await exchange.session.call(exchange.session.services.models.UpdateModel, request)
