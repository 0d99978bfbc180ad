"""SimOTA: which proposals learn which box, and the loss."""

import math

import pytest
import torch
from torch import Tensor

from services.vision.catalogue import YoloxSize
from services.vision.detector_network import Targets
from services.vision.simota import Proposals, assign, summed_loss
from services.vision.yolox import Yolox

NANO = YoloxSize(width=16, depth=1, depthwise=True)


def mean_loss(proposals: Proposals, wanted: list[Targets], l1_weight: float = 0.0) -> torch.Tensor:
    total, learning = summed_loss(proposals, wanted, l1_weight=l1_weight)
    return total / learning


def targets(*boxes: tuple[float, float, float, float], labels: list[int] | None = None) -> Targets:
    """Boxes as left, top, right, bottom."""
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels or [0] * len(boxes)).long()
    )


def grid(side: int = 8, stride: int = 8) -> tuple[Tensor, Tensor]:
    """Cells of one level: corners and strides."""
    steps = torch.arange(side, dtype=torch.float32) * stride
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    corners = torch.stack((x.flatten(), y.flatten()), dim=1)
    return corners, torch.full_like(corners[:, :1], stride)


def level(boxes: Tensor, categories: int = 2, objectness: float = 0.0) -> Proposals:
    """Proposals of one image with `boxes` [k, 4] and equal category scores."""
    corners, strides = grid()
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - corners) / strides
    size = ((boxes[:, 2:] - boxes[:, :2]) / strides).log()
    logits = torch.zeros(len(boxes), 1 + categories)
    logits[:, 0] = objectness
    return Proposals(torch.cat((centre, size, logits), dim=1)[None], corners, strides)


def around(corners: Tensor, side: float) -> Tensor:
    """A square box of `side` around every cell's centre."""
    middles = corners + 4
    return torch.cat((middles - side / 2, middles + side / 2), dim=1)


def assigned(proposals: Proposals, wanted: Targets) -> tuple[list[int], list[int], list[float]]:
    found = assign(proposals.boxes()[0], proposals.raw[0, :, 4:], proposals.corners, proposals.strides, wanted)
    return found.cells.tolist(), found.owners.tolist(), found.overlaps.tolist()


def test_a_box_takes_as_many_proposals_as_the_sum_of_their_overlaps() -> None:
    corners, _ = grid()
    boxes = around(corners, 1.0)
    exact = torch.tensor([16.0, 16.0, 40.0, 40.0])
    for cell in (18, 19, 27):  # three cells predict the box exactly: the overlaps sum to a little over three
        boxes[cell] = exact
    cells, owners, overlaps = assigned(level(boxes), targets((16, 16, 40, 40)))
    assert cells == [18, 19, 27]
    assert owners == [0, 0, 0]
    assert overlaps == pytest.approx([1.0, 1.0, 1.0])


def test_a_box_that_no_proposal_fits_still_takes_one_cell_near_its_centre() -> None:
    corners, _ = grid()
    cells, owners, _ = assigned(level(around(corners, 0.5)), targets((20, 20, 21, 21)))
    assert owners == [0]
    middle = corners[cells[0]] + 4
    assert bool(((middle - 20.5).abs() < 2.5 * 8).all())


def test_a_proposal_that_two_boxes_want_goes_to_the_one_it_fits_better() -> None:
    corners, _ = grid()
    boxes = around(corners, 1.0)
    boxes[27] = torch.tensor([16.0, 16.0, 40.0, 40.0])
    cells, owners, _ = assigned(level(boxes), targets((16, 16, 40, 40), (15, 15, 42, 42)))
    assert len(cells) == len(set(cells))
    assert owners[cells.index(27)] == 0


def test_of_two_cells_with_equal_boxes_the_one_of_the_right_category_is_taken() -> None:
    corners, _ = grid()
    boxes = around(corners, 0.5)
    boxes[27] = boxes[28] = torch.tensor([20.0, 20.0, 40.0, 40.0])
    boxes[28, 2:] -= 8.0  # the overlaps sum to less than two, so one is taken
    boxes[27] = boxes[28]
    proposals = level(boxes)
    proposals.raw[0, 27, 5:] = torch.tensor([3.0, -3.0])
    proposals.raw[0, 28, 5:] = torch.tensor([-3.0, 3.0])
    assert assigned(proposals, targets((20, 20, 40, 40), labels=[1]))[0] == [28]
    assert assigned(proposals, targets((20, 20, 40, 40), labels=[0]))[0] == [27]


def test_a_box_outside_the_cells_takes_none() -> None:
    corners, _ = grid()
    assert assigned(level(around(corners, 8.0)), targets((200, 200, 220, 220))) == ([], [], [])


def test_the_loss_of_one_exact_certain_proposal_is_zero() -> None:
    corners, _ = grid()
    boxes = around(corners, 0.5)
    boxes[27] = torch.tensor([20.0, 20.0, 40.0, 40.0])
    proposals = level(boxes, objectness=-20.0)
    proposals.raw[0, 27, 4:] = torch.tensor([20.0, 20.0, -20.0])
    assert float(mean_loss(proposals, [targets((20, 20, 40, 40))], l1_weight=1.0)) == pytest.approx(0, abs=1e-4)


def test_the_loss_is_the_sum_of_its_terms_per_proposal_that_learns() -> None:
    corners, _ = grid()
    boxes = around(corners, 0.5)
    boxes[27] = torch.tensor([20.0, 20.0, 40.0, 30.0])  # half of the box
    proposals = level(boxes, objectness=-20.0)
    proposals.raw[0, 27, 4:] = 0.0
    loss = float(mean_loss(proposals, [targets((20, 20, 40, 40))]))
    # Overlap 1/2: box 5·(1 - 1/4); objectness log 2; categories log 2 each, for any soft target.
    assert loss == pytest.approx(5 * 0.75 + 3 * math.log(2), abs=1e-4)
    distance = 5 / 8 + math.log(2)  # the centre is 5 pixels off, the height half
    assert float(mean_loss(proposals, [targets((20, 20, 40, 40))], l1_weight=1.0)) == pytest.approx(
        loss + distance, abs=1e-4
    )


def test_images_without_boxes_train_objectness_towards_zero() -> None:
    torch.manual_seed(0)
    net = Yolox(NANO, 2).train()
    loss = net.loss(torch.rand(2, 3, 64, 96) * 255, [targets(), targets()])
    loss.backward()
    gradients = [p.grad for p in net.head.obj_preds.parameters()]
    assert math.isfinite(loss.item())
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool((gradient > 0).any()) for gradient in gradients if gradient is not None)


def test_the_gradient_is_finite_for_boxes_of_every_shape() -> None:
    torch.manual_seed(0)
    net = Yolox(NANO, 2, l1_weight=1.0).train()
    wanted = [
        targets((0, 0, 96, 64), (10, 10, 10.5, 10.5), (0, 0, 96, 1), (5, 5, 5, 5), labels=[0, 1, 1, 0]),
        targets((95, 63, 96, 64), labels=[1]),
    ]
    net.loss(torch.rand(2, 3, 64, 96) * 255, wanted).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_the_loss_of_a_batch_weighs_proposals_of_all_images_equally() -> None:
    corners, _ = grid()
    one = level(around(corners, 10.0))
    both = Proposals(torch.cat((one.raw, one.raw)), one.corners, one.strides)
    wanted = targets((16, 16, 40, 40), (40, 8, 52, 60), labels=[0, 1])
    torch.testing.assert_close(mean_loss(both, [wanted, wanted]), mean_loss(one, [wanted]))


def test_a_network_can_overfit_two_images() -> None:
    torch.manual_seed(0)
    net = Yolox(NANO, 2).train()
    images = torch.full((2, 3, 64, 64), 114.0)
    images[0, 0, 8:40, 16:56] = 255.0
    images[1, 2, 20:60, 10:34] = 255.0
    wanted = [targets((16, 8, 56, 40), labels=[0]), targets((10, 20, 34, 60), labels=[1])]
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        net.loss(images, wanted).backward()
        optimizer.step()
    with torch.inference_mode():
        found = net.candidates(images)  # batch statistics: the running ones lag after so few steps
    for index, want in enumerate(wanted):
        scores = found.scores[index]
        best = int(scores.max(dim=1).values.argmax())
        assert int(scores[best].argmax()) == int(want.labels[0])
        assert float(scores[best].max()) > 0.3
        torch.testing.assert_close(found.boxes[index, best, 0], want.boxes[0], rtol=0, atol=6.0)
