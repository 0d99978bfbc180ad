"""A trained detector: pixels in, boxes out."""

import itertools
from collections.abc import Generator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from services.vision.card import ModelCard
from services.vision.detector_builder import build_detector
from services.vision.detector_network import DetectorNetwork
from services.vision.image_detections import ImageDetections
from services.vision.inputs import DetectorInputs, Letterboxed, Pixels, by_shape
from services.vision.memory import BatchLimit
from services.vision.preprocess import normalise
from services.vision.suppression import Floats, suppressed

PASS_PIXELS = 1 << 20  # of the inputs of a forward pass on a CPU; more do not fit its caches
DEVICE_PASS_PIXELS = 1 << 24  # on any other device


class Detector(DetectorInputs):
    """A network and its card, ready to predict; safe to use from several threads.

    Batches that do not fit into memory are halved, from then on. An image's boxes do not depend on its
    batch, except for float32 rounding: kernels may add in a different order for a different batch size.
    """

    def __init__(self, card: ModelCard, network: DetectorNetwork, device: torch.device | str = "cpu") -> None:
        """Takes ownership of the network: it must not be used elsewhere."""
        super().__init__(card)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self._pass_pixels = PASS_PIXELS if self.device.type == "cpu" else DEVICE_PASS_PIXELS

    @classmethod
    def from_state(cls, card: ModelCard, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "Detector":
        """A detector of existing tensors, not copied on a CPU; raises RuntimeError unless they fit the card exactly."""
        with torch.device("meta"):
            network = build_detector(card.backbones[0].name, len(card.categories))
        network.load_state_dict(state, strict=True, assign=True)
        return cls(card, network, device)

    @property
    def size_bytes(self) -> int:
        """The size of its tensors in memory."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name, contiguous, on the CPU."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def predict_prepared(self, images: Sequence[Letterboxed]) -> list[ImageDetections]:
        """The detections in each image; shapes may differ."""
        answers: dict[int, ImageDetections] = {}
        for index, candidates in self._passes(images):
            answers[index] = suppressed(*candidates, images[index].frame, self.card.suppression)
        return [answers[index] for index in range(len(images))]

    @torch.inference_mode()
    def _passes(self, images: Sequence[Letterboxed]) -> Generator[tuple[int, tuple[Floats, Floats]]]:
        """Each image's index, boxes and scores on the CPU, in input pixels; images of one shape run together."""
        for indices in by_shape(images):
            height, width, _ = images[indices[0]].pixels.shape
            most = max(1, self._pass_pixels // (height * width))
            limit = BatchLimit(most)
            inputs = [images[index].pixels for index in indices]
            candidates = itertools.chain(*limit.pieces(inputs, self._candidates))
            if limit.most < most:
                self._pass_pixels = limit.most * height * width
            yield from zip(indices, candidates, strict=True)

    def _candidates(self, inputs: Sequence[Pixels]) -> list[tuple[Floats, Floats]]:
        """Each input's boxes and scores."""
        images = torch.from_numpy(np.stack(inputs)).to(self.device).permute(0, 3, 1, 2)
        found = self.network.candidates(normalise(images, self.rule))
        return list(zip(found.boxes.cpu().numpy(), found.scores.cpu().numpy(), strict=True))
