"""What a detector says of one image. No torch here."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ImageDetections:
    """The objects of one image, by falling score.

    Boxes lie within the upright image as it was sent, in its pixels; each has an extent.
    """

    boxes: NDArray[np.float32]  # [m, 4]: left, top, width, height
    scores: NDArray[np.float32]  # [m], 0..1
    labels: NDArray[np.int64]  # [m], positions among the card's categories

    def __len__(self) -> int:
        return len(self.scores)
