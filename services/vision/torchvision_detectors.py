"""torchvision's detectors as detector networks: inputs by our input rule, outputs before suppression."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, Self, TypeVar, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD

from services.vision.detector_network import Candidates, DetectorNetwork, Targets

Model = SSD | RetinaNet | FCOS | FasterRCNN
_Model_co = TypeVar("_Model_co", bound=Model, covariant=True)
_OneStageModel_co = TypeVar("_OneStageModel_co", bound=SSD | RetinaNet | FCOS, covariant=True)


class TorchvisionDetector(DetectorNetwork, Generic[_Model_co]):
    """One of torchvision's models, as `model`, with its published tensor names.

    Its labels are our category indices if each category has its own sigmoid. If a softmax includes the background, its
    label 0 is the background, and ours are shifted by one.
    """

    class_outputs: tuple[str, ...]  # prefixes of the tensors that depend on the categories
    background: int  # 1 where label 0 is the background

    def __init__(self, model: _Model_co, categories: int) -> None:
        super().__init__()
        model.add_module("transform", _NoTransform())
        self.model = model
        self.categories = categories

    @classmethod
    def built(cls, name: str, categories: int) -> Self:
        """The model of that name with random weights."""
        outputs = categories + cls.background
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=outputs)
        return cls(cast(_Model_co, model), categories)

    def loss(self, images: Tensor, targets: Sequence[Targets]) -> Tensor:
        """The sum of the model's own losses. Empty boxes, whose sides have no logarithm, are left out."""
        losses: dict[str, Tensor] = self.model(images, [self._target(target) for target in targets])
        return torch.stack(list(losses.values())).sum()

    def _target(self, target: Targets) -> dict[str, Tensor]:
        real = (target.boxes[:, 2:] > target.boxes[:, :2]).all(dim=1)
        return {"boxes": target.boxes[real], "labels": target.labels[real] + self.background}

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.backbone(images)

    @abstractmethod
    def candidates(self, images: Tensor) -> Candidates: ...

    @abstractmethod
    def parts(self) -> tuple[nn.Module, ...]: ...


class _OneStage(TorchvisionDetector[_OneStageModel_co]):
    """A model with a candidate at every anchor."""

    def candidates(self, images: Tensor) -> Candidates:
        features = list(self._features(images).values())
        outputs: dict[str, Tensor] = self.model.head(features)
        boxes = self._boxes(outputs["bbox_regression"], self._anchors(images, features))
        return Candidates(boxes.unsqueeze(2), self._scores(outputs))

    def _anchors(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """[k, 4], the same for every image."""
        (anchors,) = self.model.anchor_generator(_image_list(images[:1]), features)
        return anchors

    @abstractmethod
    def _boxes(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Box codes [n, k, 4] at anchors [k, 4] into left, top, right, bottom [n, k, 4]."""

    @abstractmethod
    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """[n, k, categories]."""


class SsdDetector(_OneStage[SSD]):
    """SSD (Liu et al. 2016) with SSDLite's head (Sandler et al. 2018)."""

    class_outputs = tuple(f"head.classification_head.module_list.{level}.1." for level in range(6))
    background = 1

    def _anchors(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """The anchors of a one-pixel image, scaled: a tracer would turn the model's own scaling into a constant."""
        left, top, right, bottom = super()._anchors(images[..., :1, :1], features).unbind(dim=1)
        height, width = images.shape[-2:]
        return torch.stack((left * width, top * height, right * width, bottom * height), dim=1)

    def _boxes(self, codes: Tensor, anchors: Tensor) -> Tensor:
        return _decoded(self.model, codes, anchors)

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["cls_logits"].softmax(dim=-1)[..., 1:]

    def parts(self) -> tuple[nn.Module, ...]:
        extractor = self.model.backbone
        return self.model.head, extractor.get_submodule("extra"), extractor.get_submodule("features")


class RetinaNetDetector(_OneStage[RetinaNet]):
    """RetinaNet (Lin et al. 2017)."""

    class_outputs = ("head.classification_head.cls_logits.",)
    background = 0

    def _boxes(self, codes: Tensor, anchors: Tensor) -> Tensor:
        return _decoded(self.model, codes, anchors)

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["cls_logits"].sigmoid()

    def parts(self) -> tuple[nn.Module, ...]:
        return self.model.head, *_pyramid(self.model)


class FcosDetector(_OneStage[FCOS]):
    """FCOS (Tian et al. 2019): a score is the geometric mean of category probability and centre-ness."""

    class_outputs = ("head.classification_head.cls_logits.",)
    background = 0

    def _boxes(self, codes: Tensor, anchors: Tensor) -> Tensor:
        return self.model.box_coder.decode(codes, anchors)

    def _scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def parts(self) -> tuple[nn.Module, ...]:
        return self.model.head, *_pyramid(self.model)


class FasterRcnnDetector(TorchvisionDetector[FasterRCNN]):
    """Faster R-CNN (Ren et al. 2015): each proposal has a box per category, so box outputs depend on them too."""

    class_outputs = ("roi_heads.box_predictor.",)
    background = 1

    def candidates(self, images: Tensor) -> Candidates:
        """Images with fewer proposals than others are padded with zeros; an image may have none."""
        features = self._features(images)
        shapes = _image_list(images).image_sizes
        heads = cast(RoIHeads, self.model.roi_heads)
        proposals: list[Tensor] = self.model.rpn(_image_list(images), features)[0]
        pooled = heads.box_head(heads.box_roi_pool(features, proposals, shapes))
        logits, codes = heads.box_predictor(pooled)
        counts = [len(proposal) for proposal in proposals]
        boxes: Tensor = heads.box_coder.decode(codes, proposals).reshape(-1, self.categories + 1, 4)[:, 1:]
        scores: Tensor = logits.softmax(dim=-1)[:, 1:]
        return Candidates(
            pad_sequence(list(boxes.split(counts)), batch_first=True),
            pad_sequence(list(scores.split(counts)), batch_first=True),
        )

    def parts(self) -> tuple[nn.Module, ...]:
        return nn.ModuleList((self.model.rpn, self.model.roi_heads)), *_pyramid(self.model)


class _NoTransform(nn.Module):
    """Replaces the model's own resizing and normalisation."""

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[ImageList, list[dict[str, Tensor]]]:
        return _image_list(images), targets

    def postprocess(self, result: list[dict[str, Tensor]], *_: object) -> list[dict[str, Tensor]]:
        """The two-stage model calls this even in training."""
        return result


def _image_list(images: Tensor) -> ImageList:
    return ImageList(images, [(images.shape[-2], images.shape[-1])] * images.shape[0])


def _pyramid(model: RetinaNet | FCOS | FasterRCNN) -> tuple[nn.Module, nn.Module]:
    return model.backbone.get_submodule("fpn"), model.backbone.get_submodule("body")


def _decoded(model: SSD | RetinaNet, codes: Tensor, anchors: Tensor) -> Tensor:
    flat = model.box_coder.decode_single(codes.reshape(-1, 4), anchors.repeat(codes.shape[0], 1))
    return flat.reshape(codes.shape)
