"""The digest that each blob has among its S3 metadata, and the check of a whole blob that was read."""

import hashlib
import io
import re
from pathlib import Path
from typing import BinaryIO

from urllib3.response import BaseHTTPResponse

from services.infra.s3_connections import pieces
from services.kit.digests import file_digest
from services.kit.errors import BlobDamaged

NAME = "sha256"
Metadata = dict[str, str | list[str] | tuple[str]]


def of_bytes(data: bytes) -> Metadata:
    """The metadata of a blob with these bytes."""
    return {NAME: hashlib.sha256(data).hexdigest()}


def of_file(path: Path) -> Metadata:
    """The metadata of a blob with the bytes of a file."""
    return {NAME: file_digest(path)}


def read(key: str, response: BaseHTTPResponse) -> bytes:
    """The blob in the response, or the range of it; BlobDamaged."""
    data = io.BytesIO()
    copy(key, response, data)
    return data.getvalue()


def copy(key: str, response: BaseHTTPResponse, target: BinaryIO) -> None:
    """Copies the blob; BlobDamaged at the end if it is whole and does not have its digest.

    A range is whole if it reaches from the first byte to the last. A blob of another tool may have no digest.
    """
    digest = hashlib.sha256()
    for data in pieces(response):
        digest.update(data)
        target.write(data)
    expected, found = response.headers.get(f"x-amz-meta-{NAME}", ""), digest.hexdigest()
    if expected and _is_whole(response.headers.get("Content-Range", "")) and expected != found:
        raise BlobDamaged(name=key, found=found, expected=expected)


def _is_whole(content_range: str) -> bool:
    """Whether a response with this header (`bytes 0-9/10`, or none) has the whole blob."""
    if not content_range:
        return True
    found = re.fullmatch(r"bytes 0-(\d+)/(\d+)", content_range.strip())
    return bool(found) and int(found[1]) + 1 == int(found[2])
