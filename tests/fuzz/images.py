"""Targets: images, in the limited processes in which services decode them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random

from PIL import Image

from services.dataset.settings import DatasetSettings
from services.kit.errors import InvalidImage
from services.kit.telemetry import MemoryTelemetry
from services.predictor.settings import PredictorSettings
from services.vision.decode import Decoded
from services.vision.decode_metrics import KILLS, Kill
from services.vision.decode_pool import DecodePool
from tests.fuzz.mutations import mutated
from tests.fuzz.target import Execute, target
from tests.support.datasets import rotated
from tests.support.hostile_images import encoded, giants, jpeg_of_scans
from tests.support.odd_images import chunk, photo, png_with

TOKENS = (
    *(
        b"\xff\xd8",
        b"\xff\xd9",
        b"\xff\xda",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xc4",
        b"\xff\xdb",
        b"\xff\xe1",
        b"\xff\xe2",
        b"\xff\xdd",
    ),
    *(
        b"\x89PNG\r\n\x1a\n",
        b"IHDR",
        b"IDAT",
        b"IEND",
        b"PLTE",
        b"tRNS",
        b"iTXt",
        b"zTXt",
        b"iCCP",
        b"eXIf",
        b"acTL",
        b"fdAT",
    ),
    *(
        b"GIF89a",
        b"\x21\xf9\x04",
        b"\x2c",
        b"\x3b",
        b"BM",
        b"RIFF",
        b"WEBP",
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ALPH",
        b"ANIM",
        b"ANMF",
    ),
    *(
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"\0\0\1\0",
        b"Exif\0\0",
        b"ICC_PROFILE\0",
        b"Adobe",
        b"MPF\0",
        b"JFIF\0",
        b"http://ns.adobe.com/xap/1.0/\0",
    ),
)


def seeds() -> list[bytes]:
    """Small images of every format and of every way to store pixels."""
    rgb, icon, second = photo(64, 52), BytesIO(), photo(64, 52).rotate(90)
    rgb.save(icon, "ICO", sizes=[(48, 48), (64, 52)])
    frames = {
        form: encoded(rgb, form, save_all=True, append_images=[second])
        for form in ("GIF", "WEBP", "PNG", "TIFF", "MPO")
    }
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 3, "a photo"
    return [
        *giants(64).values(),
        *frames.values(),
        icon.getvalue(),
        rotated(60, 80, 6),
        jpeg_of_scans(64, 12),
        encoded(rgb, "WEBP", exif=exif, icc_profile=b"x" * 200),
        encoded(rgb.convert("P"), "PNG", transparency=0),
        encoded(rgb.convert("1"), "TIFF", compression="group4"),
        encoded(rgb.convert("YCbCr"), "TIFF", compression="jpeg"),
        png_with(chunk(b"eXIf", exif.tobytes()[6:]), chunk(b"tEXt", b"Comment\0x")),
        encoded(Image.new("LA", (64, 64), (9, 90)), "PNG"),
    ]


@target
async def images(_folder: Path) -> AsyncGenerator[Execute]:
    """Mutated images, half of them as the predictor decodes them and half as ingest repacks them.

    What kills a decoder is refused as an image; the outcome says which limit it was, or that the process crashed.
    """
    files, telemetry = seeds(), MemoryTelemetry()
    limits = replace(PredictorSettings().decode_limits, processes=1, cpu_seconds=5.0, wall_seconds=30.0)
    ingest = replace(DatasetSettings().decode_limits, processes=1, cpu_seconds=5.0, wall_seconds=30.0)

    def use(decoded: Decoded) -> int:
        return sum(int(pixels[0, 0, 0]) for pixels in decoded.pixels.values())

    async with DecodePool.running(limits, telemetry) as predictor, DecodePool.running(ingest, telemetry) as dataset:

        async def execute(random: Random) -> str:
            data = mutated(random.choice(files), random, files, TOKENS)
            before = {kill: telemetry.value(KILLS, reason=kill) for kill in Kill}
            try:
                if random.random() < 0.5:
                    await predictor.decode(data, "image", random.choice(((256,), (0, 224), (640,))), use)
                else:
                    found = await dataset.repack(data, "image", "fuzz")
                    if isinstance(found.image, InvalidImage):
                        raise found.image
            except InvalidImage as error:
                killed = [kill for kill in Kill if telemetry.value(KILLS, reason=kill) > before[kill]]
                return "killed: " + ", ".join(killed) if killed else type(error).__name__
            return "accepted"

        yield execute
