"""The fields of a resource that are the caller's own, and the request id: the same limits everywhere."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from services.kit.errors import InvalidRequest
from sightline.text import fault_of_text

MAX_TEXT = 256  # characters of a display name, of a property's key or value
MAX_PROPERTIES = 10
MAX_REQUEST_ID = 128  # characters
UPDATABLE = ("display_name", "custom_properties")


class Changes(TypedDict, total=False):
    """The fields that an update changes, with their new values."""

    display_name: str
    custom_properties: dict[str, str]


def check_caller_fields(resource: str, display_name: str, custom_properties: Mapping[str, str]) -> None:
    """InvalidRequest naming the field of `resource` ("dataset") that exceeds its limit."""
    if len(display_name) > MAX_TEXT:
        problem = f"{len(display_name)} characters are more than {MAX_TEXT}."
        raise InvalidRequest(field=f"{resource}.display_name", problem=problem)
    if fault := fault_of_text(display_name):
        raise InvalidRequest(field=f"{resource}.display_name", problem=f"it {fault}; remove it.")
    field = f"{resource}.custom_properties"
    if len(custom_properties) > MAX_PROPERTIES:
        raise InvalidRequest(field=field, problem=f"{len(custom_properties)} entries are more than {MAX_PROPERTIES}.")
    for key, value in custom_properties.items():
        if not key or max(len(key), len(value)) > MAX_TEXT:
            problem = f"the entry {key[:40]!r} has an empty key, or more than {MAX_TEXT} characters."
            raise InvalidRequest(field=field, problem=problem)
        if fault := fault_of_text(key) or fault_of_text(value):
            raise InvalidRequest(field=field, problem=f"the entry {key[:40]!r} {fault}; remove it.")


def changes(resource: str, mask: Sequence[str], display_name: str, custom_properties: Mapping[str, str]) -> Changes:
    """The fields to update: those in the mask, or without a mask whichever of the two are set; InvalidRequest."""
    for path in mask:
        if path not in UPDATABLE:
            problem = f"{path!r} cannot be updated; only {' and '.join(UPDATABLE)} can."
            raise InvalidRequest(field="update_mask", problem=problem)
    chosen = Changes()
    if "display_name" in mask if mask else display_name:
        chosen["display_name"] = display_name
    if "custom_properties" in mask if mask else custom_properties:
        chosen["custom_properties"] = dict(custom_properties)
    check_caller_fields(resource, chosen.get("display_name", ""), chosen.get("custom_properties", {}))
    return chosen


def check_request_id(request_id: str) -> str:
    """The id itself; InvalidRequest if it is too long."""
    if len(request_id) > MAX_REQUEST_ID:
        problem = f"{len(request_id)} characters are more than {MAX_REQUEST_ID}."
        raise InvalidRequest(field="request_id", problem=problem)
    return request_id
