"""Decoders for tests: of this process, without limits."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from services.kit.errors import InvalidImage
from services.vision.decode import Decoded, decode_sizes, inspect
from services.vision.decode_pool import Inspected
from services.vision.repack import encode_for_pack

T = TypeVar("T")


class InlineDecoders:
    """See `Decoders`."""

    is_ready = True

    async def decode(self, data: bytes, name: str, sizes: Sequence[int], use: Callable[[Decoded], T]) -> T:
        return use(decode_sizes(data, sizes, name))

    async def repack(self, data: bytes, name: str, caller: str) -> Inspected:
        info = inspect(data, name)
        try:
            return Inspected(info, encode_for_pack(data, info, name=name))
        except InvalidImage as error:
            return Inspected(info, error)
