"""Between the JSON of custom resources and the messages of the contract."""

from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from services.operator.resource import Resource
from sightline.client.errors import NotFound

M = TypeVar("M", bound=Any)
MASK = FieldMask(paths=["display_name", "custom_properties"])


def parsed(resource: Resource, message: M) -> M:
    """The message that the spec describes; json_format.ParseError for a field that the contract does not have."""
    return json_format.ParseDict(resource.contract, message)


def own_fields(message: Any) -> tuple[str, dict[str, str]]:
    """The fields that callers may update."""
    return message.display_name, dict(message.custom_properties)


def changed(wanted: M, found: Any) -> M:
    """An update of what was found to the fields that are wanted, if nobody else changes it meanwhile."""
    return type(wanted)(
        name=found.name,
        etag=found.etag,
        display_name=wanted.display_name,
        custom_properties=wanted.custom_properties,
    )


def seconds(duration: Duration) -> str:
    """A duration for people."""
    return f"{duration.ToTimedelta().total_seconds():.0f}s"


async def gone(deletion: Awaitable[object]) -> bool:
    """Whether a deletion left nothing: also if there was nothing."""
    with suppress(NotFound):
        await deletion
    return True
