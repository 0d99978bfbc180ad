"""Uploads: the files that were sent under one id."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from sightline.client.results.convert import moment
from sightline.v1 import upload_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One upload; an upload that no dataset names expires."""

    name: str  # `uploads/1f2e3d4c`
    owner: str  # the caller who began it; empty without authentication
    base_uri: str  # below which its files are
    file_count: int
    size_bytes: int
    is_deleting: bool  # its files are being removed
    create_time: datetime | None
    update_time: datetime | None  # when a file was last added, or a dataset registered from it
    message: upload_pb2.Upload = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: upload_pb2.Upload) -> Self:
        """The content of the message."""
        return cls(
            name=message.name,
            owner=message.owner,
            base_uri=message.base_uri,
            file_count=message.file_count,
            size_bytes=message.size_bytes,
            is_deleting=message.state == upload_pb2.Upload.DELETING,
            create_time=moment(message.create_time),
            update_time=moment(message.update_time),
            message=message,
        )
