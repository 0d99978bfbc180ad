"""The networks that classifiers are built on, with one structure: features, pool, norm, linear head."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn

from services.vision.catalogue import BACKBONES, Backbone, Library

State = Mapping[str, Tensor]
QUARTERS = 4


class Network(nn.Module):
    """Features, pooled to one vector per image, then a linear head.

    `depth` says how much of it trains: with 0 only the head, with k the last k stages too. The rest has no gradients
    and stays in evaluation mode, so that its running statistics do not change.
    """

    def __init__(self, backbone: Backbone, features: nn.Sequential, norm: nn.Module, categories: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.pool = nn.Identity() if backbone.whole else nn.AdaptiveAvgPool2d(1)
        self.norm = norm
        self.head = nn.Linear(backbone.feature_dim, categories)
        self.depth = len(self.stages())
        self.normalised = False  # the head reads features of unit length

    def embed(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] into pooled features [n, feature_dim]."""
        return self._last(self.features(images))

    def embed_stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features of the last stage, [n, feature_dim], and of the one before, [n, middle_dim]."""
        start = self.backbone.stage_starts[-1]
        middle = self.features[:start](images)
        return self._last(self.features[start:](middle)), torch.flatten(self.pool(middle), 1)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] into logits [n, categories]."""
        return self.answer(self.features(images))

    def answer(self, maps: Tensor, start: int | None = None) -> Tensor:
        """Logits of what the features give, or of what their children before `start` give."""
        features = self._last(maps if start is None else self.features[start:](maps))
        return self.head(nn.functional.normalize(features.float(), dim=1) if self.normalised else features)

    def _last(self, maps: Tensor) -> Tensor:
        return torch.flatten(self.norm(self.pool(maps)), 1)

    def stages(self) -> tuple[nn.Module, ...]:
        """The stages of the features from output to input; the first includes the norm."""
        if self.backbone.whole:
            return _stages_of(self.features[0])
        starts = self.backbone.stage_starts
        ends = (*starts[1:], len(self.features))
        stages = [self.features[start:end] for start, end in zip(starts, ends, strict=True)]
        return (nn.Sequential(stages[-1], self.norm), *reversed(stages[:-1]))

    def unfreeze(self, depth: int) -> None:
        """Lets only the head and the last `depth` stages train."""
        self.depth = depth
        stages = self.stages()
        self.features.requires_grad_(depth >= len(stages))  # position embeddings are in no stage
        for index, stage in enumerate(stages):
            stage.requires_grad_(index < depth)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        """Sets training mode for what trains, evaluation mode for the rest."""
        super().train(mode)
        for stage in self.stages()[self.depth :]:
            stage.eval()
        return self


def build(name: str, categories: int, *, seed: int | None = None) -> Network:
    """A network with random weights, determined by the seed; on the default device of the context (meta included).

    Raises KeyError for a name that is not in BACKBONES.
    """
    backbone = BACKBONES[name]
    if seed is None:
        return _assembled(backbone, categories)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _assembled(backbone, categories)


def load_weights(network: Network, state: State) -> None:
    """Loads pretrained weights, by their library's names, into features and norm; the head is unchanged.

    Raises RuntimeError for a missing, unknown or misshapen tensor. The classifier's tensors are dropped.
    """
    own = network.state_dict()
    if network.backbone.whole:
        renamed = _of_whole(network, state)
    else:
        renamed = {new: tensor for key, tensor in state.items() if (new := _renamed(network.backbone, key)) is not None}
    heads = {key: own[key] for key in own if key.startswith("head.")}
    network.load_state_dict({**renamed, **heads}, strict=True)


def published_names(backbone: Backbone) -> list[str]:
    """The names of a timm network's tensors, in timm's order."""
    import timm  # noqa: PLC0415 - see `_from_timm`

    with torch.device("meta"):
        return list(timm.create_model(backbone.architecture, pretrained=False).state_dict())


def fill_buffers(network: Network) -> None:
    """Computes the buffers that no state has, such as tables of positions, if the network was built on `meta`."""
    missing = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    computed = dict(build(network.backbone.name, 1).named_buffers()) if missing else {}
    for name in missing:
        parent, _, leaf = name.rpartition(".")
        network.get_submodule(parent).register_buffer(leaf, computed[name], persistent=False)


@torch.inference_mode()
def embed(network: Network, images: Tensor, *, middle: bool = False) -> Tensor:
    """Pooled features [n, dim] in evaluation mode, channels last; leaves the network's mode as it was.

    With `middle`, those of the last two stages side by side.
    """
    was_training = network.training
    network.eval()
    images = images.contiguous(memory_format=torch.channels_last)
    features = torch.cat(network.embed_stages(images), dim=1) if middle else network.embed(images)
    network.train(was_training)
    return features


def _assembled(backbone: Backbone, categories: int) -> Network:
    assemble = _from_timm if backbone.library is Library.TIMM else _from_torchvision
    if backbone.whole:
        assemble = _whole
    features, norm = assemble(backbone)
    if backbone.end_padding:
        _pad_at_end(features)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # some have 0.01, too slow for a short training
    return Network(backbone, features, norm, categories).to(memory_format=torch.channels_last)


def _from_torchvision(backbone: Backbone) -> tuple[nn.Sequential, nn.Module]:
    """(features, norm)"""
    model = torchvision.models.get_model(backbone.architecture, weights=None)
    if backbone.architecture.startswith("resnet"):
        children = OrderedDict((name, child) for name, child in model.named_children() if name not in ("avgpool", "fc"))
        return nn.Sequential(children), nn.Identity()
    norm = cast(nn.Sequential, model.classifier)[0] if backbone.architecture.startswith("convnext") else nn.Identity()
    return cast(nn.Sequential, model.features), norm


def _from_timm(backbone: Backbone) -> tuple[nn.Sequential, nn.Module]:
    """(features, norm) of an EfficientNet, its blocks named as timm names them but without the dot."""
    import timm  # noqa: PLC0415 - takes a second, which only what is built on it should wait for

    parts = dict(timm.create_model(backbone.architecture, pretrained=False).named_children())
    children: OrderedDict[str, nn.Module] = OrderedDict(conv_stem=parts["conv_stem"], bn1=parts["bn1"])
    children.update((f"blocks{name}", block) for name, block in parts["blocks"].named_children())
    children.update(conv_head=parts["conv_head"], bn2=parts["bn2"])
    return nn.Sequential(children), nn.Identity()


def _whole(backbone: Backbone) -> tuple[nn.Sequential, nn.Module]:
    """(timm's network, which gives pooled features; no norm). A transformer takes any multiple of its patch."""
    import timm  # noqa: PLC0415 - see `_from_timm`

    options: dict[str, Any] = {"dynamic_img_size": True} if backbone.patch > 1 else {}
    return nn.Sequential(
        timm.create_model(backbone.architecture, pretrained=False, num_classes=0, **options)
    ), nn.Identity()


def _stages_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """The parts of a network of timm's from output to input: its trunk in quarters, the first with what follows it."""
    children = list(model.named_children())
    middle = next(index for index, (name, _) in enumerate(children) if name in ("stages", "blocks"))
    units = list(children[middle][1].children())
    size = -(-len(units) // QUARTERS)
    groups = [units[end - size if end > size else 0 : end] for end in range(len(units), 0, -size)]
    groups[0] += [child for _, child in children[middle + 1 :]]
    groups[-1] = [*(child for _, child in children[:middle]), *groups[-1]]
    return tuple(nn.Sequential(*group) for group in groups)


def _of_whole(network: Network, state: State) -> dict[str, Tensor]:
    """Published tensors by our names, without the classifier's."""
    model = network.features[0]
    config = cast(dict[str, object], model.pretrained_cfg)["classifier"]
    names = (config,) if isinstance(config, str) else cast(tuple[str, ...], config)
    classifiers = tuple(f"{name.removesuffix('.l')}." for name in names)  # `.l`: the layer after a normalisation
    own = model.state_dict()
    return {
        f"features.0.{key}": tensor for key, tensor in state.items() if key in own or not key.startswith(classifiers)
    }


def _renamed(backbone: Backbone, key: str) -> str | None:
    """Our name of a published tensor; None for those of the classifier, which are not used."""
    if key.startswith(("fc.", "classifier.")):
        if backbone.architecture.startswith("convnext") and key.startswith("classifier.0."):
            return key.replace("classifier.0.", "norm.", 1)
        return None
    if backbone.library is Library.TIMM:
        return "features." + key.replace("blocks.", "blocks", 1)
    return f"features.{key}" if backbone.architecture.startswith("resnet") else key


class _EndPaddedConv2d(nn.Conv2d):
    """A convolution of stride 2 padded on the right and below only."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)))


def _pad_at_end(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.stride == (2, 2) and child.kernel_size == (3, 3):
            padded = _EndPaddedConv2d(
                child.in_channels, child.out_channels, 3, stride=2, padding=0, groups=child.groups, bias=False
            )
            padded.weight = child.weight
            setattr(module, name, padded)
        else:
            _pad_at_end(child)
