"""Every detector of the catalogue is a valid detector network, and loads its published weights strictly."""

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from services.vision.catalogue import DETECTORS
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import DetectorNetwork, Targets
from services.vision.torchvision_detectors import TorchvisionDetector
from services.vision.transformer_detectors import LEAST_SIDE, TransformerDetector
from tests.support.detectors import published_transformer

NAMES = sorted(DETECTORS)
TRANSFORMERS = [name for name in NAMES if DETECTORS[name].transformer]
LIGHT = ["yolox_nano", "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2"]
TWO_STAGE = "fasterrcnn_mobilenet_v3_large_320_fpn"
CATEGORIES = 3
BY_CATEGORY = ("cls", "class", "box_predictor", "enc_score_head")  # in the names of what depends on the categories


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def targets() -> list[Targets]:
    boxes = torch.tensor([[5.0, 5, 60, 60], [20, 20, 40, 30], [7, 7, 7, 30]])  # the last has no width
    return [
        Targets(boxes, torch.tensor([CATEGORIES - 1, 0, 1])),
        Targets(torch.empty(0, 4), torch.empty(0, dtype=torch.int64)),
    ]


def on_meta(name: str, categories: int = CATEGORIES) -> DetectorNetwork:
    with torch.device("meta"):
        return build_detector(name, categories)


def published(name: str) -> dict[str, Tensor]:
    """Weights by the published names, of COCO's categories, all twos."""
    network = on_meta(name, 80)
    module = network.model if isinstance(network, TorchvisionDetector | TransformerDetector) else network
    return {key: torch.full(tensor.shape, 2, dtype=tensor.dtype) for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_head_neck_and_backbone_contain_each_parameter_once(name: str) -> None:
    network = on_meta(name)
    parts = [parameter for part in network.parts() for parameter in part.parameters()]
    assert len(network.parts()) == 3
    assert len({id(parameter) for parameter in parts}) == len(parts) == len(list(network.parameters()))
    assert network.categories == CATEGORIES


@pytest.mark.parametrize("name", [*LIGHT, TWO_STAGE, "dfine_nano", "dfine_small", "rfdetr_small"])
def test_the_loss_is_one_finite_number_that_trains_every_part(name: str) -> None:
    network = build_detector(name, CATEGORIES, seed=0).train()
    loss = network.loss(images(), targets())
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    for part in network.parts():
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        assert gradients
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize(
    "name", ["yolox_nano", "ssdlite320_mobilenet_v3_large", TWO_STAGE, "dfine_nano", "rfdetr_small"]
)
def test_images_without_boxes_have_a_finite_loss(name: str) -> None:
    network = build_detector(name, CATEGORIES, seed=0).train()
    loss = network.loss(images(), targets()[1:] * 2)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", [*LIGHT, TWO_STAGE, "dfine_nano", "rfdetr_small"])
@torch.inference_mode()
def test_an_image_s_candidates_do_not_depend_on_its_batch(name: str) -> None:
    network = build_detector(name, CATEGORIES, seed=0).eval()
    together = network.candidates(images(3))
    count, boxes_each = together.boxes.shape[1], CATEGORIES if name == TWO_STAGE else 1
    assert together.boxes.shape == (3, count, boxes_each, 4)
    assert together.scores.shape == (3, count, CATEGORIES)
    assert together.scores.min() >= 0
    assert together.scores.max() <= 1
    alone = network.candidates(images(3)[1:2])
    count = alone.boxes.shape[1]
    torch.testing.assert_close(together.boxes[1, :count], alone.boxes[0], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(together.scores[1, :count], alone.scores[0], atol=1e-5, rtol=1e-5)
    assert not together.scores[1, count:].any()


@torch.inference_mode()
def test_a_batch_in_which_no_region_is_proposed_has_no_candidates() -> None:
    network = build_detector(TWO_STAGE, CATEGORIES, seed=0).eval()
    for parameter in network.get_submodule("model.rpn.head.cls_logits").parameters():
        parameter.fill_(-100)
    found = network.candidates(torch.ones(2, 3, 64, 96))
    assert found.boxes.shape == (2, 0, CATEGORIES, 4)
    assert found.scores.shape == (2, 0, CATEGORIES)


@pytest.mark.parametrize("name", [*LIGHT[1:], TWO_STAGE])
@torch.inference_mode()
def test_torchvision_s_own_detections_are_among_the_candidates(name: str) -> None:
    network = build_detector(name, CATEGORIES, seed=0).eval()
    assert isinstance(network, TorchvisionDetector)
    model: Any = network.model
    getattr(model, "roi_heads", model).score_thresh = 0.0
    batch = images(1)
    own = model(batch, None)[0]
    ours = network.candidates(batch)
    assert len(own["scores"]) > 10
    for box, score, own_label in list(zip(own["boxes"], own["scores"], own["labels"], strict=True))[:10]:
        label = int(own_label) - network.background
        boxes = ours.boxes[0, :, label if ours.boxes.shape[2] > 1 else 0]
        clipped = torchvision.ops.clip_boxes_to_image(boxes, (64, 96))
        distance = (clipped - box).abs().amax(dim=1) + 1e3 * (ours.scores[0, :, label] - score).abs()
        assert distance.min() < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_load_except_what_depends_on_the_categories(name: str) -> None:
    state = published(name)
    network = build_detector(name, CATEGORIES, seed=0)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    load_detector_weights(network, state)
    kept = [key for key, tensor in network.state_dict().items() if torch.equal(tensor, before[key])]
    changed = [key for key in before if key not in kept]
    assert kept
    assert all(any(part in key for part in BY_CATEGORY) for key in kept)
    assert not any(before[key].shape != state[key.removeprefix("model.")].shape for key in changed)
    state["surplus"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="surplus"):
        load_detector_weights(network, state)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_files_of_transformers_load_under_the_names_that_it_writes(name: str, tmp_path: Path) -> None:
    state = published_transformer(name, tmp_path)
    network = build_detector(name, CATEGORIES, seed=0)
    assert isinstance(network, TransformerDetector)
    load_detector_weights(network, state)
    own = network.own_names(state)
    assert all(
        torch.equal(tensor, own[key])
        for key, tensor in network.model.state_dict().items()
        if not key.startswith(network.class_outputs)
    )
    lost = next(key for key in state if "backbone" in key)
    with pytest.raises(RuntimeError, match="missing_keys"):
        load_detector_weights(network, {key: tensor for key, tensor in state.items() if key != lost})


def test_a_file_of_d_fine_holds_its_outputs_by_either_name(tmp_path: Path) -> None:
    state = published_transformer("dfine_nano", tmp_path)
    for given, other in (("class_embed.", "model.decoder.class_embed."), ("model.decoder.bbox_embed.", "bbox_embed.")):
        renamed = {re.sub(f"^({re.escape(other)})", given, key): tensor for key, tensor in state.items()}
        load_detector_weights(build_detector("dfine_nano", 80), renamed, keep_head=True)
    load_detector_weights(build_detector("dfine_nano", 80), {**state, **_twice(state)}, keep_head=True)


def _twice(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{prefix}{key.removeprefix('model.decoder.')}": tensor
        for key, tensor in state.items()
        if re.match(r"(model\.decoder\.)?(class|bbox)_embed", key)
        for prefix in ("", "model.decoder.")
    }


def test_a_detr_pads_small_inputs_and_its_boxes_are_in_the_input_s_own_pixels() -> None:
    network = build_detector("dfine_nano", CATEGORIES, seed=0).eval()
    small = images(1)
    padded = torch.nn.functional.pad(small, (0, LEAST_SIDE - 96, 0, LEAST_SIDE - 64))
    with torch.inference_mode():
        found, same = network.candidates(small), network.candidates(padded)
    torch.testing.assert_close(found.boxes, same.boxes)
    torch.testing.assert_close(found.scores, same.scores)


def test_weights_of_networks_with_frozen_normalisation_load_by_the_older_names() -> None:
    state = {key: tensor for key, tensor in published(TWO_STAGE).items() if not key.endswith("num_batches_tracked")}
    for suffix in ("weight", "bias"):
        state[f"rpn.head.conv.{suffix}"] = state.pop(f"rpn.head.conv.0.0.{suffix}")
    network = build_detector(TWO_STAGE, CATEGORIES, seed=0)
    load_detector_weights(network, state)
    assert bool((network.state_dict()["model.rpn.head.conv.0.0.weight"] == 2).all())


def test_missing_misshapen_or_foreign_tensors_are_refused() -> None:
    network = build_detector("yolox_nano", CATEGORIES)
    state = dict(build_detector("yolox_nano", 80).state_dict())
    name = "backbone.backbone.stem.conv.conv.weight"
    with pytest.raises(RuntimeError, match="stem"):
        load_detector_weights(network, {key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_detector_weights(network, {**state, name: torch.zeros(1)})
    with pytest.raises(RuntimeError, match="cls_preds"):
        load_detector_weights(network, {key: tensor for key, tensor in state.items() if "cls_preds" not in key})


def test_the_head_is_loaded_on_request_if_the_categories_match() -> None:
    source, network = build_detector("yolox_nano", 5, seed=1), build_detector("yolox_nano", 5, seed=2)
    load_detector_weights(network, source.state_dict(), keep_head=True)
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in network.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_detector_weights(build_detector("yolox_nano", 4), source.state_dict(), keep_head=True)


def test_the_seed_decides_the_weights_and_the_global_generator_is_untouched() -> None:
    state = torch.get_rng_state()
    first, again = build_detector("yolox_nano", 2, seed=3), build_detector("yolox_nano", 2, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in first.state_dict().items())
    with pytest.raises(KeyError):
        build_detector("yolox_giga", 2)


def test_the_real_weights_fit(weights_dir: Path) -> None:
    state = safetensors.torch.load_file(weights_dir / "yolox_nano.safetensors")
    load_detector_weights(build_detector("yolox_nano", CATEGORIES), state)
    load_detector_weights(build_detector("yolox_nano", 80), state, keep_head=True)
