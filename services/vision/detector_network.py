"""The interface of detector networks: letterboxed inputs, candidate boxes before suppression, a loss, three parts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Targets:
    """One image's ground truth in pixels of its input, without crowds."""

    boxes: Tensor  # [m, 4] float32: left, top, right, bottom
    labels: Tensor  # [m] int64


@dataclass(frozen=True, slots=True)
class Candidates:
    """All that the network proposes for a batch, before suppression."""

    boxes: Tensor  # [n, k, 1 or categories, 4]: left, top, right, bottom in input pixels, not clipped
    scores: Tensor  # [n, k, categories], 0..1; 0 where a row is padding


class DetectorNetwork(nn.Module, ABC):
    """Takes inputs [n, 3, h, w], h and w multiples of 32, made by the detector's input rule.

    An image's candidates do not depend on the rest of its batch, within float32 rounding.
    """

    categories: int

    @abstractmethod
    def candidates(self, images: Tensor) -> Candidates:
        """In evaluation mode; traceable into an exported graph."""

    @abstractmethod
    def loss(self, images: Tensor, targets: Sequence[Targets]) -> Tensor:
        """The scalar mean loss per image, in training mode; images without any box are allowed."""

    def summed_loss(self, images: Tensor, targets: Sequence[Targets]) -> tuple[Tensor, int]:
        """The loss as a sum, and the objects that it is of: `loss` is it divided by these, or by the images if more.

        Sums of the parts of a batch add up, which a mean of means does not. For a loss that is a mean of images there
        are no objects.
        """
        return self.loss(images, targets) * len(targets), 0

    @abstractmethod
    def parts(self) -> tuple[nn.Module, ...]:
        """Head, neck and backbone, in the order in which training unfreezes them; together all parameters.

        A network without a neck has an empty module in its place.
        """

    def kept(self) -> tuple[nn.Module, ...]:
        """Layers that training from pretrained weights leaves unchanged at any depth."""
        return ()
