"""What a detector finds in one image. No torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ImageDetections:
    """The objects in one image, by falling score.

    Boxes are in pixels of the upright image at its original size, inside it, and not empty.
    """

    boxes: NDArray[np.float32]  # [m, 4]: left, top, width, height
    scores: NDArray[np.float32]  # [m], 0..1
    labels: NDArray[np.int64]  # [m], indices into the card's categories

    def __len__(self) -> int:
        return len(self.scores)
