"""The bundle of the model that a training continues, as a source of weights."""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from services.kit.errors import InvalidRequest
from services.trainer.base_model import brought_backbones
from services.trainer.messages import TrainTask
from services.vision import sealing
from services.vision.card import WEIGHTS_FILE, ModelCard, WeightsSource
from services.vision.detector_network import DetectorNetwork
from services.vision.sealing import BundleCorrupt
from services.vision.weights import PretrainedWeights
from services.vision.yolox import Yolox

TORCHVISION_PREFIX = "model."  # of the published names, in the bundles of torchvision's detectors


@dataclass(frozen=True, slots=True)
class BaseBundle:
    """Its card, its tensors, and the digest of their file."""

    card: ModelCard
    state: dict[str, Tensor]
    sha256: str

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks whose weights it has."""
        return tuple(brought_backbones(self.card))

    def backbone_weights(self, name: str) -> PretrainedWeights | None:
        """A classifier's network by our names, without a head; None if it has no such network.

        Weights that its training left as they were keep their origin, so that cached features fit them.
        """
        backbone = brought_backbones(self.card).get(name)
        if backbone is None:
            return None
        stored = [each for each in self.card.backbones if each.shares is None]
        prefix = f"trunks.{stored.index(backbone)}."
        state = {key.removeprefix(prefix): value for key, value in self.state.items() if key.startswith(prefix)}
        if backbone.tuned:
            return PretrainedWeights(state, WeightsSource.BASE_MODEL, self.sha256, "")
        return PretrainedWeights(state, backbone.weights_source, backbone.weights_sha256, "")

    def detector_weights(self, name: str) -> PretrainedWeights | None:
        """A detector's network by its published names; None if it is another."""
        if name not in self.networks:
            return None
        state = {key.removeprefix(TORCHVISION_PREFIX): value for key, value in self.state.items()}
        return PretrainedWeights(state, WeightsSource.BASE_MODEL, self.sha256, "")

    @torch.no_grad()
    def keep_categories(self, network: DetectorNetwork, categories: tuple[str, ...]) -> None:
        """Gives categories that the base model knows by the same name its outputs for them.

        Only networks of the YOLOX family have separate outputs per category.
        """
        if not isinstance(network, Yolox):
            return
        known = {category.name: index for index, category in enumerate(self.card.categories)}
        for level, outputs in enumerate(network.head.cls_preds):
            for part, values in outputs.named_parameters():
                before = self.state[f"head.cls_preds.{level}.{part}"]
                for index, name in enumerate(categories):
                    if name in known:
                        values[index] = before[known[name]]


def open_base(task: TrainTask) -> BaseBundle | None:
    """The bundle that the task continues, its files verified; None if there is none.

    Raises InvalidRequest for a bundle that is damaged or of another kind.
    """
    if task.base_directory is None:
        return None
    directory = Path(task.base_directory)
    try:
        sealing.verify(directory)
        card = sealing.load_card(directory)
        state = safetensors.torch.load_file(directory / WEIGHTS_FILE)
    except (BundleCorrupt, safetensors.SafetensorError, OSError) as fault:
        raise InvalidRequest(field="base_model", problem=f"its bundle is damaged: {fault}") from fault
    if card.kind is not task.recipe.kind:
        raise InvalidRequest(field="base_model", problem=f"it is a {card.kind}, not a {task.recipe.kind}")
    return BaseBundle(card, state, sealing.weights_sha256(directory))


def base_networks(task: TrainTask) -> tuple[str, ...]:
    """The networks whose weights the task's base model brings."""
    if task.base_directory is None:
        return ()
    return tuple(brought_backbones(sealing.load_card(Path(task.base_directory))))
