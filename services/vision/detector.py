"""A trained detector: pixels in, boxes out."""

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from services.vision import preprocess
from services.vision.card import InputRule, ModelCard, Suppression
from services.vision.decode import Decoded, decode_sizes
from services.vision.detector_builder import build_detector
from services.vision.detector_network import DetectorNetwork
from services.vision.image_detections import ImageDetections
from services.vision.letterbox import Letterbox, letterbox
from services.vision.memory import BatchLimit

PASS_PIXELS = 1 << 20  # of the inputs of a forward pass on a CPU; more do not fit its caches
DEVICE_PASS_PIXELS = 1 << 24  # on any other device
CONTENDERS = 10  # candidates that take part in suppression, per box returned at most


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One image's input, and where the image is in it."""

    pixels: Tensor  # float32 [3, h, w]
    frame: Letterbox


class Detector:
    """A network and its card, ready to predict; safe to use from several threads.

    Batches that do not fit into memory are halved, from then on. An image's boxes do not depend on its
    batch, except for float32 rounding: kernels may add in a different order for a different batch size.
    """

    def __init__(self, card: ModelCard, network: DetectorNetwork, device: torch.device | str = "cpu") -> None:
        """Takes ownership of the network: it must not be used elsewhere."""
        self.card = card
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
    def rule(self) -> InputRule:
        """How the network wants its input."""
        return self.card.backbones[0].rule

    @property
    def size_bytes(self) -> int:
        """The size of its tensors in memory."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name, contiguous, on the CPU."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def prepare(self, data: bytes, name: str = "image") -> Prepared:
        """An image file's input, as in training; raises InvalidImage. Thread-safe; does not use the network."""
        return self.arrange(self.decode(data, name))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rule's `at_least`."""
        return (self.rule.at_least,)

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        """The first half of `prepare`: upright RGB pixels, perhaps decoded smaller, and the image's header."""
        return decode_sizes(data, self.sizes, name, min_side=1)

    def arrange(self, decoded: Decoded) -> Prepared:
        """The second half of `prepare`; shares no memory with the pixels."""
        info = decoded.info
        return self.prepare_pixels(decoded.pixels[self.rule.at_least], info.width, info.height)

    def prepare_pixels(self, rgb: NDArray[np.uint8], width: int, height: int) -> Prepared:
        """As `prepare`, from upright RGB pixels of an image of width x height, perhaps decoded smaller."""
        frame = letterbox(width, height, self.rule.size)
        return Prepared(preprocess.apply(rgb, self.rule, frame), frame)

    def predict_prepared(self, images: Sequence[Prepared]) -> list[ImageDetections]:
        """The detections in each image; shapes may differ."""
        answers: dict[int, ImageDetections] = {}
        for index, candidates in self._passes(images):
            answers[index] = _suppressed(candidates, images[index].frame, self.card.suppression)
        return [answers[index] for index in range(len(images))]

    @torch.inference_mode()
    def _passes(self, images: Sequence[Prepared]) -> Generator[tuple[int, tuple[Tensor, Tensor]]]:
        """Each image's index, boxes and scores on the CPU, in input pixels; images of one shape run together."""
        groups: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.pixels.shape, []).append(index)
        for (_, height, width), indices in groups.items():
            most = max(1, self._pass_pixels // (height * width))
            limit = BatchLimit(most)
            inputs = [images[index].pixels for index in indices]
            candidates = itertools.chain(*limit.pieces(inputs, self._candidates))
            if limit.most < most:
                self._pass_pixels = limit.most * height * width
            yield from zip(indices, candidates, strict=True)

    def _candidates(self, inputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each input's boxes and scores on the CPU."""
        found = self.network.candidates(torch.stack(list(inputs)).to(self.device, memory_format=torch.channels_last))
        return list(zip(found.boxes.cpu(), found.scores.cpu(), strict=True))


def _suppressed(candidates: tuple[Tensor, Tensor], frame: Letterbox, rule: Suppression) -> ImageDetections:
    """Non-maximum suppression within each category, among the best candidates, clipped to the image."""
    boxes, scores, labels = _contenders(*candidates, rule)
    boxes = clip_boxes_to_image(frame.to_image(boxes), (frame.height, frame.width))
    real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, scores, labels = boxes[real], scores[real], labels[real]
    # It offsets categories by the largest coordinate, after which float32 cannot hold fractions of a pixel.
    kept = batched_nms(boxes.double(), scores.double(), labels, rule.iou)[: rule.most]
    boxes = boxes[kept]
    boxes[:, 2:] -= boxes[:, :2]
    return ImageDetections(boxes.numpy(), scores[kept].numpy(), labels[kept].numpy())


def _contenders(boxes: Tensor, scores: Tensor, rule: Suppression) -> tuple[Tensor, Tensor, Tensor]:
    """[k, 1 or categories, 4] and [k, categories] into boxes [m, 4], scores [m] and labels [m]."""
    limit = CONTENDERS * rule.most
    surest = scores.amax(dim=1)
    kept = (surest >= rule.least_score).nonzero().squeeze(1)
    if len(kept) > limit:  # these rows contain the best candidates, and rows x categories stays small
        kept = kept[surest[kept].topk(limit).indices]
    boxes, scores = boxes[kept], scores[kept]
    rows, labels = (scores >= rule.least_score).nonzero(as_tuple=True)
    chosen = scores[rows, labels]
    if len(chosen) > limit:
        chosen, best = chosen.topk(limit)
        rows, labels = rows[best], labels[best]
    return boxes[rows, labels if boxes.shape[1] > 1 else 0], chosen, labels
