"""Builds the networks of detectors, and loads pretrained weights into them."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from services.vision.catalogue import DETECTORS, DetectorSpec, Family
from services.vision.detector_network import DetectorNetwork
from services.vision.torchvision_detectors import (
    FasterRcnnDetector,
    FcosDetector,
    RetinaNetDetector,
    SsdDetector,
    TorchvisionDetector,
)
from services.vision.transformer_detectors import TransformerDetector
from services.vision.yolox import Yolox

_YOLOX_CLASS_OUTPUTS = ("head.cls_preds.",)


_TORCHVISION = MappingProxyType(
    {
        Family.SSDLITE: SsdDetector,
        Family.FASTER_RCNN: FasterRcnnDetector,
        Family.FCOS: FcosDetector,
        Family.RETINANET: RetinaNetDetector,
    }
)


def build_detector(name: str, categories: int, *, seed: int | None = None) -> DetectorNetwork:
    """A network with random weights, determined by the seed; on the default device of the context (meta included).

    Raises KeyError for a name that is not in DETECTORS.
    """
    spec = DETECTORS[name]
    if seed is None:
        return _made(spec, categories)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made(spec, categories)


def load_detector_weights(network: DetectorNetwork, state: Mapping[str, Tensor], *, keep_head: bool = False) -> None:
    """Loads weights by their published names, except the outputs that depend on the categories.

    With `keep_head`, loads those too. Raises RuntimeError for a missing, unknown or misshapen tensor.
    """
    module, outputs = _published(network)
    if isinstance(network, TransformerDetector):
        state = network.own_names(state)
    if keep_head:
        module.load_state_dict(state, strict=True)
        return
    own = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(outputs)}
    missing = own.keys() - state.keys()
    if missing:
        raise RuntimeError(f"these are not the weights of this network: {min(missing)} is missing")
    module.load_state_dict({**state, **own}, strict=True)


def _made(spec: DetectorSpec, categories: int) -> DetectorNetwork:
    if spec.yolox is not None:
        network: DetectorNetwork = Yolox(spec.yolox, categories)
    elif spec.transformer is not None:
        return TransformerDetector.of(spec, categories)  # its outputs would change in the last bit with the layout
    else:
        network = _TORCHVISION[spec.family].built(spec.name, categories)
    return network.to(memory_format=torch.channels_last)


def _published(network: DetectorNetwork) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with the published names, and the prefixes of its outputs by category."""
    if isinstance(network, TorchvisionDetector | TransformerDetector):
        return network.model, network.class_outputs
    return network, _YOLOX_CLASS_OUTPUTS
