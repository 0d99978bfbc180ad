"""YOLOX: its sizes, its published weights, its candidates and its parts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from services.vision.catalogue import DETECTORS
from services.vision.darknet import ConvUnit, Focus, SpatialPyramid
from services.vision.simota import Proposals
from services.vision.yolox import Yolox

SIZES = {name.removeprefix("yolox_"): spec.yolox for name, spec in DETECTORS.items() if spec.yolox}


def network(categories: int = 3, variant: str = "nano") -> Yolox:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Yolox(SIZES[variant], categories).eval()


def pretrained(weights_dir: Path) -> Yolox:
    net = network(80)
    net.load_state_dict(safetensors.torch.load_file(weights_dir / "yolox_nano.safetensors"), strict=True)
    return net


def pixels(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255


def sample_images(test_data: Path, name: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs of 416 pixels, each with its image's first box."""
    listing = json.loads((test_data / name / "train.json").read_text())
    found: list[tuple[Tensor, Tensor]] = []
    for image in listing["images"][:count]:
        sample_image = Image.open(test_data / name / "images" / Path(image["file_name"]).name).convert("RGB")
        scale = 416 / max(sample_image.size)
        small = np.asarray(sample_image.resize((round(sample_image.width * scale), round(sample_image.height * scale))))
        canvas = np.full((416, 416, 3), 114, np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        left, top, width, height = next(a["bbox"] for a in listing["annotations"] if a["image_id"] == image["id"])
        box = torch.tensor([left, top, left + width, top + height]) * scale
        found.append((torch.from_numpy(canvas[..., ::-1].copy()).permute(2, 0, 1).float(), box))
    return found


def iou(first: Tensor, second: Tensor) -> float:
    common = (torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])).clamp(min=0).prod()
    areas = (first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()
    return float(common / (areas - common))


@pytest.mark.parametrize(("variant", "millions"), [("nano", 0.91), ("tiny", 5.06), ("s", 8.97)])
def test_each_size_has_as_many_parameters_as_published(variant: str, millions: float) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Yolox(SIZES[variant], 80).parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("variant", ["nano", "tiny", "s"])
def test_head_neck_and_backbone_contain_each_parameter_once(variant: str) -> None:
    with torch.device("meta"):
        net = Yolox(SIZES[variant], 3)
    parts = net.parts()
    parted = [id(parameter) for part in parts for parameter in part.parameters()]
    assert len(parts) == 3
    assert len(parted) == len(set(parted))
    assert set(parted) == {id(parameter) for parameter in net.parameters()}


@pytest.mark.parametrize("variant", ["nano", "tiny"])
def test_every_cell_of_every_level_gives_one_candidate_with_a_score_for_each_category(variant: str) -> None:
    with torch.inference_mode():
        found = network(3, variant).candidates(pixels())
    cells = sum((64 // stride) * (96 // stride) for stride in (8, 16, 32))
    assert found.boxes.shape == (2, cells, 1, 4)
    assert found.scores.shape == (2, cells, 3)
    assert bool((found.boxes[..., 2:] > found.boxes[..., :2]).all())
    assert bool(((found.scores >= 0) & (found.scores <= 1)).all())


def test_a_fresh_network_gives_low_scores() -> None:
    with torch.inference_mode():
        scores = network().candidates(pixels()).scores
    assert float(scores.mean()) < 1e-3


def test_raw_outputs_are_offsets_and_log_sizes_in_strides() -> None:
    raw = torch.tensor([[[0.5, 0.25, 0.0, math.log(2.0), 0.0, 0.0]]])
    proposals = Proposals(raw, corners=torch.tensor([[32.0, 16.0]]), strides=torch.tensor([[16.0]]))
    # Centre (32 + 8, 16 + 4), width 16, height 32.
    torch.testing.assert_close(proposals.boxes(), torch.tensor([[[32.0, 4.0, 48.0, 36.0]]]))


def test_cells_are_ordered_by_row_from_the_finest_level() -> None:
    proposals = network().proposals(pixels())
    assert proposals.corners[:2].tolist() == [[0.0, 0.0], [8.0, 0.0]]
    assert proposals.corners[12].tolist() == [0.0, 8.0]
    assert proposals.corners[-1].tolist() == [64.0, 32.0]
    assert proposals.strides.squeeze(1).unique_consecutive().tolist() == [8.0, 16.0, 32.0]


def test_an_image_s_candidates_do_not_depend_on_its_batch() -> None:
    net, images = network(), pixels(3)
    with torch.inference_mode():
        together, alone = net.candidates(images), net.candidates(images[1:2])
    torch.testing.assert_close(together.boxes[1:2], alone.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(together.scores[1:2], alone.scores, rtol=1e-4, atol=1e-6)


def test_frozen_statistics_fold_into_the_convolution_with_equal_gradients() -> None:
    unit = ConvUnit(4, 6, 3).eval()
    norm = unit.bn
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(6, generator=torch.Generator().manual_seed(1)) + 0.5)
    image = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    plain = functional.silu(norm(unit.conv(image)))
    parameters = list(unit.parameters())
    expected = torch.autograd.grad(plain.square().sum(), parameters)
    folded = unit(image)
    torch.testing.assert_close(folded, plain)
    torch.testing.assert_close(torch.autograd.grad(folded.square().sum(), parameters), expected)


def test_chained_pooling_equals_windows_of_5_9_and_13() -> None:
    layer = SpatialPyramid(8).eval()
    image = torch.randn(1, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        reduced = layer.conv1(image)
        pools = [nn.MaxPool2d(size, stride=1, padding=size // 2)(reduced) for size in (5, 9, 13)]
        torch.testing.assert_close(layer(image), layer.conv2(torch.cat([reduced, *pools], dim=1)))


def test_focus_takes_every_pixel_once_in_the_published_order() -> None:
    seen: list[Tensor] = []
    layer = Focus(1, 4)
    layer.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert seen[0][0, :, 0, 0].tolist() == [0.0, 4.0, 1.0, 5.0]  # left top, left bottom, right top, right bottom


def test_the_candidates_can_be_exported_with_any_number_of_images() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            found = self.network.candidates(images)
            return found.boxes, found.scores

    graph = Graph().eval()
    with torch.no_grad():
        program = torch.export.export(graph, (pixels(2),), dynamic_shapes=({0: torch.export.Dim("n")},))
        expected = graph(pixels(5))
        torch.testing.assert_close(program.module()(pixels(5)), expected)


def test_the_published_weights_find_scissors(test_data: Path, weights_dir: Path) -> None:
    """Scissors are COCO's category 76; at least one of the images shows a pair clearly."""
    net = pretrained(weights_dir)
    overlaps: list[float] = []
    for image, box in sample_images(test_data, "fork_scissors", 4):
        with torch.inference_mode():
            found = net.candidates(image[None])
        best = int(found.scores[0].max(dim=1).values.argmax())
        if int(found.scores[0, best].argmax()) == 76:
            assert float(found.scores[0, best].max()) > 0.4
            overlaps.append(iou(found.boxes[0, best, 0], box))
    assert len(overlaps) >= 2
    assert min(overlaps) > 0.8


def test_training_from_pretrained_weights_keeps_the_stem() -> None:
    net = network()
    assert net.kept() == (net.backbone.backbone.stem,)
