"""The ids of tags: those of a model's answers are the project's, which who may only predict cannot read."""

import hashlib
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping

from services.gateway.custom_vision.project_files import Json

PROPERTY = "customVision.tags"  # of a model, with a number behind: the ids of its tags that were renamed
MARK, ID = 6, 22  # characters of a name's digest and of an id
IN_ONE, PROPERTIES = 9, 4  # what fits into a custom property, and how many of those a model has left
MAX_RENAMED = IN_ONE * PROPERTIES


def tag_id(project: str, name: str) -> str:
    """The id of a tag that has its first name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"sightline:{project}/tags/{name}"))


def new_tag_id(project: str, tags: Json, name: str) -> str:
    """An id for a tag of this name; not the one that follows from it if a tag had that name before."""
    names = (name, *(f"{name}\0{number}" for number in range(len(tags))))
    return next(found for found in (tag_id(project, one) for one in names) if found not in tags)


def renamed(project: str, tags: Json) -> dict[str, str]:
    """The ids that do not follow from the names, by name."""
    return {tag["name"]: one for one, tag in tags.items() if one != tag_id(project, tag["name"])}


def properties(project: str, tags: Json) -> dict[str, str]:
    """At most MAX_RENAMED such ids, as custom properties of a model that is trained on these tags."""
    found = [_mark(name) + _encoded(one) for name, one in sorted(renamed(project, tags).items())]
    return {f"{PROPERTY}{start}": "".join(found[start : start + IN_ONE]) for start in range(0, len(found), IN_ONE)}


def id_in(project: str, name: str, kept: Mapping[str, str]) -> str:
    """The id of the tag that a model calls so; `kept` are its custom properties."""
    mark = _mark(name)
    for key, text in kept.items():
        if key.startswith(PROPERTY):
            for start in range(0, len(text), MARK + ID):
                if text.startswith(mark, start):
                    return str(uuid.UUID(bytes=urlsafe_b64decode(text[start + MARK : start + MARK + ID] + "==")))
    return tag_id(project, name)


def _mark(name: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode()[:MARK]


def _encoded(one: str) -> str:
    return urlsafe_b64encode(uuid.UUID(one).bytes).decode()[:ID]
