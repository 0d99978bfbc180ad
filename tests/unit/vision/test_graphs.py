"""Graphs answer as their networks do; the traced part is kept, names nothing of the machine, and holds no weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from services.vision import bundle, graph_models, graphs
from services.vision.bundle_files import BundleCorrupt, seal
from services.vision.card import graph_file
from services.vision.catalogue import DETECTORS
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import Candidates
from services.vision.graph_models import GraphClassifier, GraphDetector
from services.vision.yolox import Yolox
from tests.support.detectors import detector
from tests.unit.vision.test_bundle import classifier, two_framings

SIZES = [(97, 64), (120, 90), (64, 64)]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def photos() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(4)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for width, height in SIZES]


def written(directory: Path, model: Classifier | Detector, kept: Path) -> str:
    """The bundle as a child writes it, graphs included; returns its digest."""
    bundle.write(directory, model, kept)
    bundle.complete(directory, kept)
    return seal(directory)


def loaded(directory: Path) -> GraphClassifier:
    """A classifier's bundle."""
    model = graph_models.load(directory)
    assert isinstance(model, GraphClassifier)
    return model


@pytest.mark.parametrize("names", [("squeezenet1_1",), ("mobilenet_v2", "efficientnet_lite0")])
def test_a_classifier_s_graphs_give_its_probabilities(names: tuple[str, ...], tmp_path: Path, kept: Path) -> None:
    model = classifier(*names, temperature=2.0)
    written(tmp_path, model, kept)
    served = loaded(tmp_path)
    views = [model.arrange({rule.at_least: photo for rule in model._rules}) for photo in photos()]
    np.testing.assert_allclose(served.predict_prepared(views), model.predict_prepared(views), atol=1e-5)
    assert served.predict_prepared([]).shape == (0, 3)


def test_two_views_of_one_network_share_a_graph(tmp_path: Path, kept: Path) -> None:
    model = two_framings()
    written(tmp_path, model, kept)
    assert [path.name for path in tmp_path.glob("*.onnx")] == [graph_file(0)]
    views = [model.arrange({rule.at_least: photo for rule in model._rules}) for photo in photos()]
    expected = model.predict_prepared(views)
    np.testing.assert_allclose(loaded(tmp_path).predict_prepared(views), expected, atol=1e-5)


@pytest.mark.weights
@pytest.mark.real_data
def test_a_detector_s_graph_finds_the_same_objects_in_photos_of_any_shape(
    weights_dir: Path, test_data: Path, tmp_path: Path, kept: Path
) -> None:
    network = build_detector("yolox_nano", 80)
    load_detector_weights(network, load_file(weights_dir / "yolox_nano.safetensors"), keep_head=True)
    model = detector("yolox_nano", 80, DETECTORS["yolox_nano"].rule.size, network)
    written(tmp_path, model, kept)
    served = graph_models.load(tmp_path)
    assert isinstance(served, GraphDetector)
    photos = [(test_data / "raccoon" / "images" / name).read_bytes() for name in ("0014.jpg", "0034.jpg", "0035.jpg")]
    images = [served.prepare(photo) for photo in photos]
    assert len({image.pixels.shape for image in images}) > 1
    for ours, theirs in zip(served.predict_prepared(images), model.predict_prepared(images), strict=True):
        sure = int((theirs.scores > 0.1).sum())  # less likely ones may swap places
        assert sure > 0
        np.testing.assert_allclose(ours.boxes[:sure], theirs.boxes[:sure], atol=1e-2)
        np.testing.assert_allclose(ours.scores[:sure], theirs.scores[:sure], atol=1e-4)
        assert ours.labels[:sure].tolist() == theirs.labels[:sure].tolist()


def test_the_traced_graph_is_kept_without_weights_and_without_paths(tmp_path: Path, kept: Path) -> None:
    first = written(tmp_path / "a", classifier("squeezenet1_1"), kept)
    before = sorted(kept.iterdir())
    assert written(tmp_path / "b", classifier("squeezenet1_1"), kept) == first
    assert sorted(kept.iterdir()) == before
    graph = (tmp_path / "a" / graph_file(0)).read_bytes()
    assert len(graph) < 100_000
    assert b".py" not in graph
    onnx.checker.check_model(str(tmp_path / "a" / graph_file(0)))


def test_changed_weights_need_no_new_trace(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a", classifier("squeezenet1_1"), kept)
    monkeypatch.setattr(graphs, "_trace", lambda *_: pytest.fail("traced again"))
    model = classifier("squeezenet1_1")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1.1)
    written(tmp_path / "b", model, kept)
    views = [model.arrange({rule.at_least: photo for rule in model._rules}) for photo in photos()]
    expected = model.predict_prepared(views)
    np.testing.assert_allclose(loaded(tmp_path / "b").predict_prepared(views), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "dfine_nano"])
def test_networks_that_cannot_be_traced_give_bundles_without_graphs(name: str, tmp_path: Path, kept: Path) -> None:
    written(tmp_path, detector(name), kept)
    assert not graph_models.has_graphs(tmp_path)
    bundle.load(tmp_path)


def test_a_graph_with_a_traced_constant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = Yolox.candidates

    def scaled(self: Yolox, images: Tensor) -> Candidates:
        found = candidates(self, images)
        return Candidates(found.boxes * float(torch.zeros(images.shape).numel() % 97), found.scores)

    monkeypatch.setattr(Yolox, "candidates", scaled)
    written(tmp_path / "bundle", detector(), tmp_path / "kept")
    assert not list((tmp_path / "bundle").glob("*.onnx"))


def test_damaged_graphs_and_weights_are_named(tmp_path: Path, kept: Path) -> None:
    written(tmp_path, classifier("squeezenet1_1"), kept)
    graph = tmp_path / graph_file(0)
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-10])
    with pytest.raises(BundleCorrupt, match=graph.name):
        graph_models.load(tmp_path)
    graph.write_bytes(b"nonsense")
    seal(tmp_path)
    with pytest.raises(BundleCorrupt, match=f"{graph.name} cannot be used"):
        graph_models.load(tmp_path)
