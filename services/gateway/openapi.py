"""The OpenAPI document of the gateway, made from the tables of operations."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from services.gateway.operations import Api, Operation

PATH = "/openapi.json"
_PARAMETER = re.compile(r"\{(\w+)\}")
_TEXT = {"type": "string"}


def document(apis: Sequence[Api]) -> dict[str, Any]:
    """The document, in version 3.1."""
    paths: dict[str, Any] = {}
    for api in apis:
        for operation in api.operations:
            paths.setdefault(api.prefix + operation.path, {})[operation.method.lower()] = _described(api, operation)
    keys = ("Ocp-Apim-Subscription-Key", "Prediction-Key", "Training-Key")
    schemes = {name: {"type": "apiKey", "in": "header", "name": name} for name in keys}
    schemes["Bearer"] = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sightline gateway",
            "version": version("sightline"),
            "description": "The REST APIs of Azure's Image Analysis and Custom Vision, served by Sightline.",
        },
        "paths": paths,
        "components": {"securitySchemes": schemes},
        "security": [{name: list[str]()} for name in schemes],
    }


def _described(api: Api, operation: Operation) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in _PARAMETER.findall(operation.path)
    ]
    in_query = [{"name": name, "in": "query", "schema": _TEXT} for name in operation.query]
    described: dict[str, Any] = {
        "tags": [api.name],
        "summary": operation.summary,
        "parameters": in_path + in_query,
        "responses": {str(status): {"description": _WORDS.get(status, "failed")} for status in operation.statuses},
    }
    if operation.body:
        described["requestBody"] = {"content": {kind: {} for kind in operation.body}}
    return described


_WORDS = {
    200: "done",
    201: "created",
    202: "accepted",
    204: "deleted",
    400: "the request is wrong, or not possible now",
    401: "no token, or an invalid one",
    403: "the token does not allow it",
    404: "not found",
    409: "the name is in use",
    412: "changed since the ETag was read",
}
