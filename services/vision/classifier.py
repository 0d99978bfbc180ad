"""A trained classifier: pixels in, probabilities out."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.vision import preprocess
from services.vision.backbones import Network, build, fill_buffers
from services.vision.card import CardBackbone, InputRule, ModelCard
from services.vision.decode import Decoded, decode_sizes
from services.vision.memory import BatchLimit

BATCH_SIZE = 8  # images per forward pass on a CPU; more do not fit its caches
DEVICE_BATCH_SIZE = 64  # on any other device

Prepared = tuple[Tensor, ...]  # one image's input for each backbone, in order; equal rules share one tensor


class ClassifierNetwork(nn.Module):
    """The concatenated features of one or more backbones, then one linear head.

    A single head suffices for a combination of heads: averaging their logits gives the probabilities that averaging
    their log-probabilities does, and the mean of linear functions is linear.

    `trunks` has a network for each of the card's backbones; one that several share is the same object, stored once.
    """

    def __init__(self, backbones: Sequence[CardBackbone], trunks: Sequence[Network], head: nn.Linear) -> None:
        super().__init__()
        unique = list(dict.fromkeys(trunks))
        for trunk in unique:
            if hasattr(trunk, "head"):
                del trunk.head  # only its features are used
        self.trunks = nn.ModuleList(unique)
        self.head = head
        self._places = [unique.index(trunk) for trunk in trunks]
        self._backbones = tuple(backbones)

    def forward(self, *images: Tensor) -> Tensor:
        """One batch per backbone into logits [n, categories]."""
        features = [self._features(index, batch) for index, batch in enumerate(images)]
        return self.head(torch.cat(features, dim=1))

    def networks(self) -> list[Network]:
        """Each once."""
        return [trunk for trunk in self.trunks if isinstance(trunk, Network)]

    def _features(self, index: int, batch: Tensor) -> Tensor:
        trunk, backbone = self.networks()[self._places[index]], self._backbones[index]
        blocks = trunk.embed_stages(batch) if backbone.middle else (trunk.embed(batch),)
        if backbone.normalised:
            blocks = tuple(nn.functional.normalize(block.float(), dim=1) for block in blocks)
        return torch.cat(blocks, dim=1)


class Classifier:
    """A network and its card, ready to predict; safe to use from several threads.

    Batches that do not fit into memory are halved, from then on. An image's probabilities do not depend on
    its batch, except for rounding (1e-5): kernels may add in a different order for a different batch size.
    """

    def __init__(self, card: ModelCard, network: ClassifierNetwork, device: torch.device | str = "cpu") -> None:
        self.card = card
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self._limit = BatchLimit(BATCH_SIZE if self.device.type == "cpu" else DEVICE_BATCH_SIZE)

    @classmethod
    def from_state(
        cls, card: ModelCard, state: Mapping[str, Tensor], device: torch.device | str = "cpu"
    ) -> "Classifier":
        """A classifier of existing tensors, not copied on a CPU; raises RuntimeError unless they fit the card."""
        with torch.device("meta"):
            trunks: list[Network] = []
            for backbone in card.backbones:
                trunks.append(build(backbone.name, 1) if backbone.shares is None else trunks[backbone.shares])
            width = sum(
                trunk.backbone.feature_dim + (trunk.backbone.middle_dim if backbone.middle else 0)
                for trunk, backbone in zip(trunks, card.backbones, strict=True)
            )
            network = ClassifierNetwork(card.backbones, trunks, nn.Linear(width, len(card.categories)))
        network.load_state_dict(state, strict=True, assign=True)
        for trunk in network.networks():
            fill_buffers(trunk)
        return cls(card, network, device)

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
        """Each `at_least` among the rules."""
        return tuple(dict.fromkeys(rule.at_least for rule in self._rules()))

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        """The first half of `prepare`: upright RGB pixels for each of `sizes`."""
        return decode_sizes(data, self.sizes, name, min_side=1)

    def arrange(self, decoded: Decoded) -> Prepared:
        """The second half of `prepare`; shares no memory with the pixels."""
        inputs = {rule: preprocess.apply(decoded.pixels[rule.at_least], rule) for rule in set(self._rules())}
        return tuple(inputs[rule] for rule in self._rules())

    def predict_prepared(self, images: Sequence[Prepared]) -> NDArray[np.float32]:
        """Probabilities [images, categories], each row summing to 1, of what `prepare` returned."""
        rows = self._limit.pieces(images, self._probabilities)
        empty = np.empty((0, len(self.card.categories)), np.float32)
        return np.concatenate(rows) if rows else empty

    def _rules(self) -> list[InputRule]:
        return [backbone.rule for backbone in self.card.backbones]

    @torch.inference_mode()
    def _probabilities(self, images: Sequence[Prepared]) -> NDArray[np.float32]:
        columns = [torch.stack(column) for column in zip(*images, strict=True)]
        batches = [column.to(self.device, memory_format=torch.channels_last) for column in columns]
        logits: Tensor = self.network(*batches)
        return torch.softmax(logits.float() / self.card.temperature, dim=1).cpu().numpy()
