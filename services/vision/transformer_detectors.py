"""D-FINE (Peng et al. 2024) and RF-DETR (Robinson et al. 2025): networks and losses of transformers, for letterboxes.

Both propose each object once, so that nothing has to be suppressed.
"""

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from services.vision.catalogue import DetectorSpec, Family, TransformerSize
from services.vision.detector_network import Candidates, DetectorNetwork, Targets

LEAST_SIDE = 320  # of an input, padded if it is smaller: it must have more places than the networks have queries
_NECKS = ("encoder_input_proj", "encoder", "decoder_input_proj")  # of D-FINE; RF-DETR's is inside its backbone
_OUTPUTS = ("class_embed", "bbox_embed")  # that D-FINE holds twice
_CLASS_OUTPUTS = MappingProxyType(
    {
        Family.D_FINE: ("model.decoder.class_embed.", "model.enc_score_head.", "model.denoising_class_embed."),
        Family.RF_DETR: ("class_embed.", "model.enc_out_class_embed."),
    }
)
_COUNTING = MappingProxyType({Family.D_FINE: "enc_score_head.weight", Family.RF_DETR: "class_embed.weight"})


class TransformerDetector(DetectorNetwork):
    """A network whose queries each answer with one box and a score per category.

    Training draws noisy boxes or drops out, by torch's global generator: seed it before each step.
    """

    def __init__(self, family: Family, size: TransformerSize, side: int, categories: int) -> None:
        """Random weights. `side` is that of the input in pretraining."""
        super().__init__()
        self.categories = categories
        self.class_outputs = _CLASS_OUTPUTS[family]
        self._counting = _COUNTING[family]
        self._built = partial(_dfine, size) if family is Family.D_FINE else partial(_rfdetr, size, side)
        self.model = _without_copies(self._built(categories))

    @classmethod
    def of(cls, spec: DetectorSpec, categories: int) -> "TransformerDetector":
        """The network of a row of the catalogue."""
        assert spec.transformer is not None, "of these families"
        return cls(spec.family, spec.transformer, spec.rule.size, categories)

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights, of any number of categories, under the names of `model`.

        transformers knows the names that it gave them over time, and those of RF-DETR's own project. Raises
        RuntimeError for a missing, unknown or misshapen tensor.
        """
        count = next((len(tensor) for name, tensor in state.items() if name.endswith(self._counting)), self.categories)
        model: Any = self._built(count)
        loaded, found = type(model).from_pretrained(
            None, config=model.config, state_dict=dict(state), output_loading_info=True
        )
        problems = [f"{what} {min(found[what])}" for what in ("missing_keys", "unexpected_keys") if found[what]]
        if problems:
            raise RuntimeError(f"these are not the weights of this network: {', '.join(problems)}")
        return _without_copies(loaded).state_dict()

    def candidates(self, images: Tensor) -> Candidates:
        inputs = _padded(images)
        found = self.model(pixel_values=inputs)
        boxes = box_convert(found.pred_boxes.float(), "cxcywh", "xyxy") * _extent(inputs)
        return Candidates(boxes.unsqueeze(2), found.logits.float().sigmoid())

    def loss(self, images: Tensor, targets: Sequence[Targets]) -> Tensor:
        inputs = _padded(images)
        extent = _extent(inputs)
        labels = [
            {"class_labels": truth.labels, "boxes": box_convert(truth.boxes / extent, "xyxy", "cxcywh")}
            for truth in targets
        ]
        return self.model(pixel_values=inputs, labels=labels).loss

    def parts(self) -> tuple[nn.Module, ...]:
        own = dict(self.model.get_submodule("model").named_children())
        encoder = own.pop("backbone")
        necks = [own.pop(name) for name in _NECKS if name in own]
        if "projector" in dict(encoder.named_children()):
            necks, encoder = [encoder.get_submodule("projector")], encoder.get_submodule("backbone")
        outputs = [part for name, part in self.model.named_children() if name != "model"]
        return nn.ModuleList((*own.values(), *outputs)), nn.ModuleList(necks), encoder


def _dfine(size: TransformerSize, categories: int) -> nn.Module:
    strides, channels = (8, 16, 32)[-size.levels :], (256, 512, 1024)[-size.levels :]
    backbone = {
        "model_type": "hgnet_v2",
        "stem_channels": [3, 16, 16],
        "stage_in_channels": [16, 64, 256, 512],
        "stage_mid_channels": [16, 32, 64, 128],
        "stage_out_channels": [64, *(256, 512, 1024)],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [3, 3, 3, 3],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 5, 5],
        "hidden_sizes": [128, 256, 512, 1024],
        "use_learnable_affine_block": True,
        "out_indices": list(range(5 - size.levels, 5)),
    }
    transformers = _transformers()
    network = transformers.DFineForObjectDetection(
        transformers.DFineConfig(
            backbone_config=backbone,
            num_labels=categories,
            num_feature_levels=size.levels,
            feat_strides=strides,
            encoder_in_channels=channels,
            encoder_hidden_dim=size.width,
            encoder_ffn_dim=4 * size.width,
            encode_proj_layers=(size.levels - 1,),
            depth_mult=size.encoder_depth,
            hidden_expansion=size.encoder_expansion,
            d_model=size.width,
            decoder_in_channels=(size.width,) * size.levels,
            decoder_ffn_dim=4 * size.width,
            decoder_layers=size.decoder_layers,
            decoder_n_points=[6, 6] if size.levels == 2 else [3, 6, 3],
        )
    )
    return cast(nn.Module, network)


def _rfdetr(size: TransformerSize, side: int, categories: int) -> nn.Module:
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_windows": 2,
        "patch_size": 16,
        "image_size": side,
        "out_features": ["stage3", "stage6", "stage9", "stage12"],
    }
    transformers = _transformers()
    config = transformers.RfDetrConfig(
        backbone_config=backbone,
        num_labels=categories,
        d_model=size.width,
        decoder_layers=size.decoder_layers,
        decoder_n_points=2,
    )
    return cast(nn.Module, transformers.RfDetrForObjectDetection(config))


def _without_copies(network: nn.Module) -> nn.Module:
    """D-FINE without what its decoder holds too, and which alone is used: a file has each tensor once."""
    decoder = network.get_submodule("model.decoder")
    for outputs in _OUTPUTS:
        if hasattr(decoder, outputs):
            delattr(network, outputs)
    return network


def _transformers() -> Any:
    """Imported when it is needed: that takes seconds, which other networks need not wait for."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _padded(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return functional.pad(images, (0, max(0, LEAST_SIDE - width), 0, max(0, LEAST_SIDE - height)))


def _extent(images: Tensor) -> Tensor:
    """Width and height, twice: by which boxes are divided."""
    height, width = images.shape[-2:]
    return images.new_tensor([width, height, width, height])
