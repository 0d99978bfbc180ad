"""An exported graph gives the same outputs as its network, for any batch and size; otherwise there is none."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from services.vision.card import Suppression
from services.vision.catalogue import DETECTORS
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import Candidates
from services.vision.export import ExportFailed, Graph, export_onnx
from services.vision.yolox import Yolox
from tests.support.detectors import detector


def test_a_real_photo_has_the_same_candidates_in_the_graph(weights_dir: Path, test_data: Path, tmp_path: Path) -> None:
    network = build_detector("yolox_nano", 80)
    load_detector_weights(network, safetensors.torch.load_file(weights_dir / "yolox_nano.safetensors"), keep_head=True)
    model = detector("yolox_nano", 80, DETECTORS["yolox_nano"].rule.size, network)
    export_onnx(model, tmp_path / "model.onnx")
    graph = Graph(tmp_path / "model.onnx")
    for name in ("0014.jpg", "0034.jpg"):  # wide and high
        image = model.prepare((test_data / "raccoon" / "images" / name).read_bytes())
        with torch.inference_mode():
            expected = model.network.candidates(image.pixels[None])
        boxes, scores = graph.candidates(image.pixels[None].numpy())
        distances = (torch.from_numpy(boxes) - expected.boxes).abs().amax(dim=(2, 3))[0]
        likely = expected.scores[0].amax(dim=1) >= Suppression().least_score
        assert likely.sum() > 10
        assert distances[likely].max() < 1e-3
        assert distances.max() < 5e-3  # float32 rounding within the network, of unlikely candidates
        np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn"])
def test_torchvision_s_exported_one_stage_detectors_accept_any_batch_and_size(name: str, tmp_path: Path) -> None:
    model = detector(name)
    export_onnx(model, tmp_path / "model.onnx")
    images = torch.randn(2, 3, 128, 224, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = model.network.candidates(images)
    boxes, scores = Graph(tmp_path / "model.onnx").candidates(images.numpy())
    np.testing.assert_allclose(boxes, expected.boxes.numpy(), atol=1e-3, rtol=1e-5)
    np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "dfine_nano"])
def test_detectors_that_cannot_be_traced_are_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=name):
        export_onnx(detector(name), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_with_a_traced_constant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = Yolox.candidates

    def scaled(self: Yolox, images: Tensor) -> Candidates:
        found = candidates(self, images)
        return Candidates(found.boxes * int(images.shape[-1]), found.scores)

    monkeypatch.setattr(Yolox, "candidates", scaled)
    with pytest.raises(ExportFailed, match="outputs differ"):
        export_onnx(detector(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_exporting_does_not_change_the_detector(tmp_path: Path) -> None:
    model = detector()
    before = pickle.dumps([tensor.numpy() for tensor in model.state().values()])
    export_onnx(model, tmp_path / "model.onnx")
    assert pickle.dumps([tensor.numpy() for tensor in model.state().values()]) == before
    assert not model.network.training
