"""Where projects are kept apart: names gain their project as they come in, and lose it as they go out.

Which fields hold names, the contract says: those with `google.api.resource_reference`, and `name` of a message with
`google.api.resource`. A name with the project is full: `projects/acme/datasets/x`, or `datasets/x` for `default`; one
without it is local.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

from google.api import resource_pb2
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo
from google.rpc.status_pb2 import Status

from services.kit import names
from services.kit.callers import DEFAULT_PROJECT, acting_project
from services.kit.errors import InvalidName

PROJECT = "sightline-project"  # the metadata that chooses the project of a call
M = TypeVar("M", bound=Message)
Change = Callable[[str], str]
_DETAILS: tuple[type[Message], ...] = (ErrorInfo, ResourceInfo, BadRequest, QuotaFailure)


class ForeignName(Exception):
    """A bug: an answer names a resource of another project."""


def incoming(request: Any) -> Any:
    """What a caller sent, with full names of the project that the call acts in; InvalidName."""
    return qualified(request, acting_project()) if isinstance(request, Message) else request


def outgoing(answer: Any) -> Any:
    """What a caller receives, with local names; ForeignName."""
    return shown(answer, acting_project()) if isinstance(answer, Message) else answer


def qualified(request: M, project: str) -> M:
    """The request with full names; InvalidName for a name that has a project already. Changes and returns it."""

    def full(name: str, field: str) -> str:
        if name.startswith(f"{names.PROJECTS}/"):
            expected = f"a name without its project, which the token or the metadata `{PROJECT}` chooses"
            raise InvalidName(field=field, value=name, expected=expected)
        return names.root(project) + name if name else name

    for message, field, path in _names(request, ""):
        _change(message, field, lambda name, path=path: full(name, path))
    return request


def shown(answer: M, project: str) -> M:
    """The answer with local names, in stored errors too; ForeignName. The answer itself is not changed."""
    root = names.root(project)

    def local(name: str) -> str:
        if name and not name.startswith(root):
            raise ForeignName(f"{name} in an answer to project {project}")
        name = name.removeprefix(root)
        if name.startswith(f"{names.PROJECTS}/"):
            raise ForeignName(f"{name} in an answer to project {project}")
        return name

    if root:
        copy = type(answer)()
        copy.CopyFrom(answer)
        answer = copy
        for status in _statuses(answer):
            status.CopyFrom(shown_status(status, project))
    for message, field, _ in _names(answer, ""):
        _change(message, field, local)
    return answer


def shown_status(status: Status, project: str) -> Status:
    """The status with local names in its message and details; itself for `default`."""
    root = names.root(project)
    if not root:
        return status
    # Not within the uri of a blob, whose key begins like a name.
    pattern = re.compile(rf"(?<![\w/.-]){re.escape(root)}")
    changed = Status(code=status.code, message=pattern.sub("", status.message))
    for packed in status.details:
        changed.details.append(_shown_detail(packed, lambda text: pattern.sub("", text)))
    return changed


def local_request(request: M) -> tuple[M, str]:
    """A copy of the request to another service with local names, and the project of all its names."""
    copy = type(request)()
    copy.CopyFrom(request)
    projects: set[str] = set()

    def local(name: str) -> str:
        project, rest = names.split(name)
        projects.update({project} if name else ())
        return rest

    for message, field, _ in _names(copy, ""):
        _change(message, field, local)
    if len(projects) > 1:
        raise ForeignName(f"a request to another service names resources of {sorted(projects)}")
    return copy, projects.pop() if projects else DEFAULT_PROJECT


def asked(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The project that a call's metadata names, empty if none; InvalidName if it cannot be one."""
    values = [value for name, value in metadata if name == PROJECT]
    value = values[0] if values else ""
    if not values or value == "":
        return ""
    if len(values) > 1 or not isinstance(value, str) or not names.is_project(value):
        raise InvalidName(
            field=PROJECT, value=str(value)[:100], expected="lower-case letters, digits and '-', at most 63"
        )
    return value


@dataclass(frozen=True, slots=True)
class _Plan:
    """The fields of a message type that hold names, and those that hold messages worth looking into."""

    names: tuple[FieldDescriptor, ...]
    messages: tuple[FieldDescriptor, ...]


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    fields = descriptor.fields
    return _Plan(
        tuple(field for field in fields if holds_name(field)),
        tuple(field for field in fields if field.message_type and _matters(field.message_type, frozenset())),
    )


def holds_name(field: FieldDescriptor) -> bool:
    """Whether the contract says that the field holds the name of a resource, or names."""
    reference, resource = cast("tuple[Any, Any]", (resource_pb2.resource_reference, resource_pb2.resource))
    if field.GetOptions().HasExtension(reference):
        return True
    message = cast("Descriptor", field.containing_type)
    return field.name == "name" and message.GetOptions().HasExtension(resource)


def _matters(descriptor: Descriptor, above: frozenset[str]) -> bool:
    """Whether the message type, or one inside it, has names or is a status."""
    if descriptor.full_name in above:
        return False
    if descriptor.full_name == Status.DESCRIPTOR.full_name or any(map(holds_name, descriptor.fields)):
        return True
    inside = [field.message_type for field in descriptor.fields if field.message_type]
    return any(_matters(type_, above | {descriptor.full_name}) for type_ in inside)


def _names(message: Message, path: str) -> Iterator[tuple[Message, FieldDescriptor, str]]:
    """Every field in the message that holds names, with the message it is in, and the path to it."""
    for field in _plan(message.DESCRIPTOR).names:
        yield message, field, path + field.name
    for field, inner in _inner(message):
        yield from _names(inner, f"{path}{field.name}.")


def _statuses(message: Message) -> Iterator[Status]:
    for _, inner in _inner(message):
        if isinstance(inner, Status):
            yield inner
        else:
            yield from _statuses(inner)


def _inner(message: Message) -> Iterator[tuple[FieldDescriptor, Message]]:
    """The messages that are set inside the message and matter."""
    for field in _plan(message.DESCRIPTOR).messages:
        if field.is_repeated:
            value: Any = getattr(message, field.name)
            yield from ((field, one) for one in (value.values() if _is_map(field) else value))
        elif message.HasField(field.name):
            yield field, getattr(message, field.name)


def _change(message: Message, field: FieldDescriptor, change: Change) -> None:
    value: Any = getattr(message, field.name)
    if field.is_repeated:
        value[:] = [change(one) for one in value]
    elif (changed := change(value)) != value:
        setattr(message, field.name, changed)


def _shown_detail(packed: Packed, change: Change) -> Packed:
    """A detail of a status with every text in it changed."""
    for kind in _DETAILS:
        detail = kind()
        if packed.Unpack(detail):
            _change_texts(detail, change)
            again = Packed()
            again.Pack(detail)
            return again
    return packed


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _change_texts(detail: Any, change: Change) -> None:
    for field, value in detail.ListFields():
        if _is_map(field):
            for key in list(value):  # a map must not change while it is read
                value[key] = change(value[key])
        elif field.message_type:
            for one in value:
                _change_texts(one, change)
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(detail, field.name, change(value))
