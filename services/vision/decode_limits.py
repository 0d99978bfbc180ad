"""What decoding an image may take, and the errors of images that would take more."""

from dataclasses import dataclass

from services.kit.errors import InvalidImage, InvalidImageFormat, InvalidImageSize
from services.vision.cost import Cost, cost_of
from services.vision.decode_metrics import Kill
from sightline.images.upright import MAX_SIDE

SMALL_BYTES = 32 << 20  # an image that takes no more never waits for memory


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What decoding may take; errors name the settings."""

    processes: int  # for one caller; several have twice as many together
    budget_bytes: int  # of large images that are decoded at once
    cpu_seconds: float  # for each image
    wall_seconds: float
    max_scans: int
    max_pixels: int | None = None
    pixels_setting: str = ""

    def cost_of(self, data: bytes, name: str) -> Cost:
        """The image's cost; InvalidImageSize if it has too many scans or pixels."""
        cost, problem = cost_of(data, self.max_scans), ""
        if max(cost.width, cost.height) > MAX_SIDE:
            return Cost()  # its header is refused, by every service in the same words
        if cost.scans > self.max_scans:
            problem = f"has more than {self.max_scans} scans (SIGHTLINE_MAX_IMAGE_SCANS); save it as a baseline JPEG"
        elif self.max_pixels is not None and cost.pixels > self.max_pixels:
            limit = f"the limit of {self.max_pixels} pixels here ({self.pixels_setting})"
            problem = f"is {cost.width} x {cost.height} pixels, more than {limit}; scale it down"
        if problem:
            raise InvalidImageSize(file=name, problem=problem)
        return cost

    def check_memory(self, peak_bytes: int, name: str) -> None:
        """InvalidImageSize if the image can never get so much memory."""
        if peak_bytes > max(self.budget_bytes, SMALL_BYTES):
            limit = f"the limit of {self.budget_bytes >> 20} MiB (SIGHTLINE_DECODE_BYTES)"
            problem = f"takes about {peak_bytes >> 20} MiB of memory to decode, more than {limit}; scale it down"
            raise InvalidImageSize(file=name, problem=problem)

    def fault_of(self, reason: Kill, name: str) -> InvalidImage:
        """The error of an image whose process was killed."""
        match reason:
            case Kill.CPU:
                limit = f"{self.cpu_seconds:g} CPU-seconds (SIGHTLINE_DECODE_CPU_SECONDS)"
            case Kill.WALL:
                limit = f"{self.wall_seconds:g} s (SIGHTLINE_DECODE_SECONDS)"
            case _:
                problem = "ends the process that decodes it; save it again with another program"
                return InvalidImageFormat(file=name, problem=problem)
        return InvalidImageSize(
            file=name, problem=f"takes more than {limit} to decode; scale it down, or save it as PNG"
        )
