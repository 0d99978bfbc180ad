"""Small pictures of a dataset's images for pages with many of them, made once and kept by their digest."""

from collections.abc import Awaitable, Callable

from services.gateway.kept import Kept

SIDE = 320  # pixels: twice what a page shows, for screens with small pixels
Shrink = Callable[[bytes, str, int], Awaitable[bytes]]  # the file, its name for errors, the longer side: a JPEG file


class Thumbnails:
    """Pictures by the SHA-256 of their images; the least recently shown go first once there are too many bytes.

    Law: ask only for an image that the dataset service has just announced to the caller.
    """

    def __init__(self, shrink: Shrink, limit_bytes: int) -> None:
        self._shrink = shrink
        self._kept = Kept[str, bytes](limit_bytes)

    def found(self, digest: str) -> bytes | None:
        """The picture, if it is kept."""
        return self._kept.get(digest)

    async def made(self, digest: str, content: bytes, name: str) -> bytes:
        """The picture of this image, which is kept from now on; InvalidImage if it cannot be decoded."""
        picture = await self._shrink(content, name, SIDE)
        self._kept.put(digest, picture, len(picture))
        return picture
