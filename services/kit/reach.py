"""Which blobs a caller's uris may name: the uploads of the caller's project, and what an operator opens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from services.kit.blobs import check_key, from_uri
from services.kit.callers import DEFAULT_PROJECT
from services.kit.errors import UnreadableUri, UnwritableUri
from services.kit.names import PROJECTS, is_project, root

UPLOADS = "uploads"
EVERYTHING = "*"
# What only the services read and write, even if everything is open.
RESERVED = (
    *("datasets", "models", "weights", "batchPredictions", "feedback", "doctor"),
    *(UPLOADS, PROJECTS, ".sightline-tmp"),
)

_ELSEWHERE = "it is not in an upload of the project"


@dataclass(frozen=True, slots=True)
class Reach:
    """The prefixes that are open, each to one project or, with an empty one, to all."""

    opened: Sequence[tuple[str, str]] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `PREFIX` or `PROJECT:PREFIX`, separated by commas; `*` is everything. ValueError names the wrong one."""
        opened: list[tuple[str, str]] = []
        for word in filter(None, (part.strip() for part in text.split(","))):
            before, colon, after = word.rpartition(":")
            if (colon and not is_project(before)) or not _is_prefix(after):
                raise ValueError(
                    f"{word!r} is not a prefix of keys such as `shared/`, `project:shared/` or `*`,"
                    f" or it begins with one of {', '.join(RESERVED)}"
                )
            opened.append((before, after))
        return cls(tuple(opened))

    def key(self, uri: str, bucket: str, project: str, field: str = "uri") -> str:
        """The key in a uri of the project's caller; UnreadableUri, which is the same whether or not there is a blob."""
        key = from_uri(uri, bucket, field)
        if not self.has(key, project):
            raise UnreadableUri(field=field, uri=uri, problem=_ELSEWHERE, bucket=bucket)
        return key

    def folder(self, uri: str, bucket: str, project: str, field: str = "uri", *, to_write: bool = False) -> str:
        """The prefix in a uri of the project's caller, with its last slash; UnreadableUri unless all below is open.

        To write, uploads are not: what they contain is what their digests say.
        """
        key = from_uri(uri.rstrip("/"), bucket, field) + "/"
        if to_write and not self._opens(key, project):
            raise UnwritableUri(field=field, uri=uri, problem="it is not below a prefix that is open for results")
        if not to_write and not self.has(key, project):
            raise UnreadableUri(field=field, uri=uri, problem=_ELSEWHERE, bucket=bucket)
        return key

    def has(self, key: str, project: str = DEFAULT_PROJECT) -> bool:
        """Whether callers of the project may name the key."""
        return key.startswith(f"{root(project)}{UPLOADS}/") or self._opens(key, project)

    def _opens(self, key: str, project: str) -> bool:
        if key.partition("/")[0] in RESERVED:
            return False
        return any(
            whose in ("", project) and (key.startswith(prefix) or prefix == "*") for whose, prefix in self.opened
        )


NOTHING_OPEN = Reach()


def _is_prefix(text: str) -> bool:
    if text == EVERYTHING:
        return True
    try:
        check_key(text.removesuffix("/"))
    except ValueError:
        return False
    return text.endswith("/") and text.partition("/")[0] not in RESERVED
