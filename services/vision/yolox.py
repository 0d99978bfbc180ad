"""YOLOX (Ge et al. 2021): an anchor-free detector in three sizes, with the published parameter names."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from services.vision.catalogue import YoloxSize
from services.vision.darknet import ConvUnit, Levels, Pyramid, unit
from services.vision.detector_network import Candidates, DetectorNetwork, Targets
from services.vision.simota import Proposals, summed_loss

STRIDES = (8, 16, 32)


class DecoupledHead(nn.Module):
    """For each level a stem, then one branch for the category and one for box and objectness."""

    def __init__(self, size: YoloxSize, categories: int) -> None:
        super().__init__()
        width = size.head_width

        def branch() -> nn.Sequential:
            return nn.Sequential(*(unit(width, width, 3, depthwise=size.depthwise) for _ in range(2)))

        def outputs(count: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, count, 1) for _ in STRIDES)

        self.stems = nn.ModuleList(ConvUnit(factor * size.width, width, 1) for factor in (4, 8, 16))
        self.cls_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.reg_convs = nn.ModuleList(branch() for _ in STRIDES)
        self.cls_preds = outputs(categories)
        self.reg_preds = outputs(4)
        self.obj_preds = outputs(1)

    def forward(self, levels: Levels) -> list[Tensor]:
        """For each level [n, 5 + categories, h, w]: box, objectness, categories, all before the sigmoid."""
        results: list[Tensor] = []
        for index, level in enumerate(levels):
            stem = self.stems[index](level)
            category = self.cls_preds[index](self.cls_convs[index](stem))
            branch = self.reg_convs[index](stem)
            results.append(torch.cat((self.reg_preds[index](branch), self.obj_preds[index](branch), category), dim=1))
        return results


class Yolox(DetectorNetwork):
    """Takes BGR pixels 0..255. `l1_weight` adds the L1 distance of box parameters to the loss, for last epochs."""

    def __init__(self, size: YoloxSize, categories: int, *, l1_weight: float = 0.0) -> None:
        """Random weights; category and objectness outputs start at a probability of 1 %."""
        super().__init__()
        self.categories = categories
        self.l1_weight = l1_weight
        self.backbone = Pyramid(size.width, size.depth, depthwise=size.depthwise)
        self.head = DecoupledHead(size, categories)
        for output in (*self.head.cls_preds, *self.head.obj_preds):
            assert isinstance(output, nn.Conv2d)
            assert output.bias is not None
            nn.init.constant_(output.bias, -math.log(99))

    def proposals(self, images: Tensor) -> Proposals:
        """One proposal per cell of every level, fine to coarse and row by row, in float32."""
        levels: list[Tensor] = self.head(self.backbone(images))
        raw = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2).float()
        grids = [_cells(level, stride) for level, stride in zip(levels, STRIDES, strict=True)]
        return Proposals(raw, torch.cat([corner for corner, _ in grids]), torch.cat([stride for _, stride in grids]))

    def candidates(self, images: Tensor) -> Candidates:
        proposals = self.proposals(images)
        scores = proposals.raw[..., 4:].sigmoid()
        return Candidates(proposals.boxes().unsqueeze(2), scores[..., :1] * scores[..., 1:])

    def loss(self, images: Tensor, targets: Sequence[Targets]) -> Tensor:
        total, objects = self.summed_loss(images, targets)
        return total / max(objects, len(targets), 1)

    def summed_loss(self, images: Tensor, targets: Sequence[Targets]) -> tuple[Tensor, int]:
        """The objects are the proposals that learn a box."""
        return summed_loss(self.proposals(images), targets, l1_weight=self.l1_weight)

    def parts(self) -> tuple[nn.Module, ...]:
        return self.head, self.backbone.own_layers(), self.backbone.backbone

    def kept(self) -> tuple[nn.Module, ...]:
        """The stem: its inputs reach 255, so its weights are so small that a few steps of Adam destroy them."""
        return (self.backbone.backbone.stem,)


def _cells(level: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The cells of [n, c, h, w] as their left top corners [h·w, 2], x first, and strides [h·w, 1], in input pixels."""
    height, width = level.shape[-2:]
    rows = torch.arange(height, dtype=torch.float32, device=level.device) * stride
    columns = torch.arange(width, dtype=torch.float32, device=level.device) * stride
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    corners = torch.stack((x.flatten(), y.flatten()), dim=1)
    return corners, torch.full_like(corners[:, :1], stride)
