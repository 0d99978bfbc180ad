"""SimOTA (Ge et al. 2021): which proposals learn which box, and the resulting loss.

A proposal may learn a box if its cell is in the box or near its centre. Each box takes the proposals that already fit
its category and position best, as many as the sum of their overlaps. Nothing is random.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from services.vision.detector_network import Targets

_CENTRE_RADIUS = 2.5  # strides
_MOST_FOR_A_BOX = 10  # overlaps in the sum
_OVERLAP_COST = 3.0
_OUTSIDE_COST = 1e5  # for a cell that is not both in the box and near its centre
_BOX_WEIGHT = 5.0


@dataclass(frozen=True, slots=True)
class Proposals:
    """The network's outputs for every cell of a batch."""

    raw: Tensor  # [n, k, 5 + categories]: x and y in strides from the cell's corner, log width and height in strides,
    # then the logits of objectness and of the categories
    corners: Tensor  # [k, 2]: left top of the cell in input pixels
    strides: Tensor  # [k, 1]

    def boxes(self) -> Tensor:
        """[n, k, 4]: left, top, right, bottom in input pixels."""
        centre = self.raw[..., :2] * self.strides + self.corners
        half = self.raw[..., 2:4].exp() * (self.strides / 2)
        return torch.cat((centre - half, centre + half), dim=-1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The proposals of one image that learn a box; each learns one at most."""

    cells: Tensor  # [p] int64, indices of proposals
    owners: Tensor  # [p] int64, indices of the image's boxes
    overlaps: Tensor  # [p] IoU of the proposal with its box, without gradient


@torch.no_grad()
def assign(boxes: Tensor, logits: Tensor, corners: Tensor, strides: Tensor, targets: Targets) -> Assignment:
    """Assigns one image's proposals, boxes [k, 4] and logits [k, 1 + categories], to its targets."""
    inside, near = _places(corners, strides, targets.boxes)
    cells = (inside | near).any(dim=0).nonzero().squeeze(1)
    if cells.numel() == 0:
        return Assignment(cells, cells, boxes.new_zeros(0))
    central = (inside & near)[:, cells]
    overlaps = _ious(targets.boxes[:, None], boxes[cells][None])
    cost = _category_cost(logits[cells], targets.labels) - _OVERLAP_COST * (overlaps + 1e-8).log()
    cost = cost + _OUTSIDE_COST * ~central
    counts = overlaps.topk(min(_MOST_FOR_A_BOX, cells.numel()), dim=1).values.sum(dim=1).int().clamp(min=1)
    cheapest = cost.topk(int(counts.max()), dim=1, largest=False).indices
    taken = torch.arange(cheapest.shape[1], device=cost.device) < counts[:, None]
    chosen = torch.full_like(cost, torch.inf).scatter(1, cheapest, torch.where(taken, 0.0, torch.inf))
    least, owners = (chosen + cost).min(dim=0)  # a proposal that two boxes want goes to the cheaper one
    kept = least.isfinite().nonzero().squeeze(1)
    return Assignment(cells[kept], owners[kept], overlaps[owners[kept], kept])


def summed_loss(proposals: Proposals, targets: Sequence[Targets], *, l1_weight: float = 0.0) -> tuple[Tensor, int]:
    """The loss of a batch as a sum, and how many of its proposals learn a box."""
    raw, boxes = proposals.raw, proposals.boxes()
    with torch.no_grad():
        found = [_assigned(proposals, boxes, image, target) for image, target in enumerate(targets)]
        images = torch.cat([torch.full_like(one.cells, image) for image, one in enumerate(found)])
        cells, overlaps = torch.cat([one.cells for one in found]), torch.cat([one.overlaps for one in found])
        wanted = torch.cat([target.boxes[one.owners] for target, one in zip(targets, found, strict=True)])
        labels = torch.cat([target.labels[one.owners] for target, one in zip(targets, found, strict=True)])
        objects = torch.zeros_like(raw[..., 4])
        objects[images, cells] = 1.0
        categories = functional.one_hot(labels, raw.shape[-1] - 5) * overlaps[:, None]
    learning = raw[images, cells]
    total = functional.binary_cross_entropy_with_logits(raw[..., 4], objects, reduction="sum")
    total = total + functional.binary_cross_entropy_with_logits(learning[:, 5:], categories, reduction="sum")
    total = total + _BOX_WEIGHT * (1 - _ious(boxes[images, cells], wanted).square()).sum()
    if l1_weight:
        goal = _encoded(wanted, proposals.corners[cells], proposals.strides[cells])
        total = total + l1_weight * (learning[:, :4] - goal).abs().sum()
    return total, cells.numel()


def _assigned(proposals: Proposals, boxes: Tensor, image: int, targets: Targets) -> Assignment:
    if targets.labels.numel() == 0:
        return Assignment(targets.labels, targets.labels, boxes.new_zeros(0))
    return assign(boxes[image], proposals.raw[image, :, 4:], proposals.corners, proposals.strides, targets)


def _places(corners: Tensor, strides: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[m, k] each: cells whose centre is in the box, and near the box's centre."""
    middles = corners + strides / 2
    inside = ((middles > boxes[:, None, :2]) & (middles < boxes[:, None, 2:])).all(dim=2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = ((middles - centres[:, None]).abs() < _CENTRE_RADIUS * strides).all(dim=2)
    return inside, near


def _category_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """[m, k]: cross entropy of sqrt(objectness * category) against each box's label."""
    squashed = logits.sigmoid()
    probability = (squashed[:, :1] * squashed[:, 1:]).sqrt()
    hit, miss = probability.log().clamp(min=-100), (1 - probability).log().clamp(min=-100)
    return (miss - hit)[:, labels].T - miss.sum(dim=1)


def _ious(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes [..., 4] that broadcast against each other."""
    sides = (torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])).clamp(
        min=0
    )
    common = sides.prod(dim=-1)
    areas = (first[..., 2:] - first[..., :2]).prod(dim=-1) + (second[..., 2:] - second[..., :2]).prod(dim=-1)
    return common / (areas - common + 1e-9)


def _encoded(boxes: Tensor, corners: Tensor, strides: Tensor) -> Tensor:
    """The raw box parameters [p, 4] that would give the boxes at their cells."""
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - corners) / strides
    return torch.cat((centre, ((boxes[:, 2:] - boxes[:, :2]) / strides + 1e-8).log()), dim=1)
