"""Small pictures of callers' images: decoded in a limited process, then shrunk and encoded here."""

from io import BytesIO

from PIL import Image

from services.vision.decode import Decoded
from services.vision.decode_pool import Decoders

QUALITY = 80


async def thumbnail(decoders: Decoders, data: bytes, name: str, side: int) -> bytes:
    """A JPEG file of the upright image, whose longer side has at most so many pixels; raises as `Decoders.decode`."""

    def small(decoded: Decoded) -> bytes:
        picture = Image.fromarray(decoded.pixels[side])
        picture.thumbnail((side, side))
        out = BytesIO()
        picture.save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    return await decoders.decode(data, name, (side,), small)
