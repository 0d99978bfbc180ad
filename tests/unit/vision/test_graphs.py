"""Graphs answer as their networks do, name nothing of the machine, and hold no weights."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from safetensors.torch import load_file

from services.trainer.domain import Hyperparameters
from services.trainer.planner import classifier_recipes, ladder
from services.vision import bundle, graph_models, graph_tracing
from services.vision.backbones import Network
from services.vision.card import ModelKind, graph_file
from services.vision.catalogue import DETECTORS
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.graph_models import Graph, GraphClassifier, GraphDetector
from services.vision.graph_tracing import USUAL, GraphUnavailable
from services.vision.sealing import BundleCorrupt, seal
from tests.support.detectors import detector
from tests.support.hostile_images import encoded
from tests.unit.vision.test_bundle import classifier, two_framings

SIZES = [(97, 64), (120, 90), (64, 64)]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def photos() -> list[bytes]:
    random = np.random.default_rng(4)
    sizes = [(height, width, 3) for width, height in SIZES]
    return [encoded(Image.fromarray(random.integers(0, 256, size, np.uint8)), "PNG") for size in sizes]


def loaded(directory: Path) -> GraphClassifier:
    """A classifier's bundle."""
    model = graph_models.load(directory)
    assert isinstance(model, GraphClassifier)
    return model


@pytest.mark.parametrize("names", [("squeezenet1_1",), ("mobilenet_v2", "squeezenet1_1")])
def test_a_classifier_s_graphs_give_its_probabilities(names: tuple[str, ...], tmp_path: Path, graphs: Path) -> None:
    model = classifier(*names, temperature=2.0)
    random = torch.Generator().manual_seed(1)
    for key, tensor in model.network.state_dict().items():  # a random network's deepest features are nearly 0
        if key.endswith((".running_var", ".running_mean")):
            tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=random))
    bundle.write(tmp_path, model, graphs)
    served = loaded(tmp_path)
    views = [model.prepare(photo) for photo in photos()]
    np.testing.assert_allclose(served.predict_prepared(views), model.predict_prepared(views), atol=1e-5)
    assert served.predict_prepared([]).shape == (0, 3)


def test_two_views_of_one_network_share_a_graph(tmp_path: Path, graphs: Path) -> None:
    model = two_framings()
    bundle.write(tmp_path, model, graphs)
    assert [path.name for path in tmp_path.glob("*.onnx")] == [graph_file(0)]
    views = [model.prepare(photo) for photo in photos()]
    expected = model.predict_prepared(views)
    np.testing.assert_allclose(loaded(tmp_path).predict_prepared(views), expected, atol=1e-5)


@pytest.mark.weights
@pytest.mark.real_data
def test_a_detector_s_graph_finds_the_same_objects_in_photos_of_any_shape(
    weights_dir: Path, test_data: Path, tmp_path: Path, graphs: Path
) -> None:
    network = build_detector("yolox_nano", 80)
    load_detector_weights(network, load_file(weights_dir / "yolox_nano.safetensors"), keep_head=True)
    model = detector("yolox_nano", 80, DETECTORS["yolox_nano"].rule.size, network)
    bundle.write(tmp_path, model, graphs)
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


def test_no_library_tells_its_makers_of_the_models_that_it_runs(tmp_path: Path, graphs: Path) -> None:
    (tmp_path / "home").mkdir()
    bundle.write(tmp_path / "bundle", classifier("squeezenet1_1"), graphs)
    file = str(tmp_path / "bundle" / graph_file(0))
    script = "import sys, services.vision, onnxruntime, openvino; openvino.convert_model(sys.argv[1]); "
    script += "onnxruntime.InferenceSession(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, file], env=os.environ | {"HOME": str(tmp_path / "home")}, check=True)
    assert list((tmp_path / "home").iterdir()) == [], "such as an identity of this machine"


def test_a_graph_names_no_file_and_holds_no_weights(tmp_path: Path, graphs: Path) -> None:
    first = bundle.write(tmp_path / "a", classifier("squeezenet1_1"), graphs)
    assert bundle.write(tmp_path / "b", classifier("squeezenet1_1"), graphs) == first
    graph = (tmp_path / "a" / graph_file(0)).read_bytes()
    assert len(graph) < 100_000
    assert b".py" not in graph
    onnx.checker.check_model(str(tmp_path / "a" / graph_file(0)))


def test_what_was_traced_is_not_traced_again(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_tracing, "_trace", lambda *_: pytest.fail("traced again"))
    graph_tracing.add("squeezenet1_1", graphs)


@pytest.mark.parametrize("kind", list(ModelKind))
def test_networks_that_trainings_begin_with_are_traced_at_the_set_up(kind: ModelKind) -> None:
    wanted = Hyperparameters()
    recipes = [ladder.first(kind, wanted)]
    if kind is ModelKind.GENERIC_CLASSIFIER:
        recipes += classifier_recipes.scratch(wanted)
    assert {name for recipe in recipes for name in recipe.backbones} <= set(USUAL)


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "dfine_nano"])
def test_networks_that_cannot_be_traced_give_bundles_without_graphs(name: str, tmp_path: Path) -> None:
    with pytest.raises(GraphUnavailable, match=name):
        graph_tracing.add(name, tmp_path / "kept")
    bundle.write(tmp_path / "bundle", detector(name), tmp_path / "kept")
    assert not graph_models.has_graphs(tmp_path / "bundle")
    bundle.load(tmp_path / "bundle")


def test_a_graph_that_computes_something_else_is_refused(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Network.embed_stages
    monkeypatch.setattr(Network, "embed_stages", lambda *given: [2 * part for part in embed(*given)])
    bundle.write(tmp_path, classifier("squeezenet1_1"), graphs)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_networks_share_the_memory_for_what_lies_between_their_layers(tmp_path: Path) -> None:
    samples, means = (
        helper.make_node("Cast", ["pixels"], ["samples"], to=1),
        helper.make_node("ReduceMean", ["samples"], ["features"]),
    )
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["n", "h", "w", 3])
    features = helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([samples, means], "means", [pixels], [features])
    file = tmp_path / "network.onnx"
    file.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    image = np.ones((1, 2048, 2048, 3), np.uint8)  # 50 MB as floats
    graphs = [Graph(file, 1) for _ in range(8)]
    graphs[0].run(["features"], image)
    before = resident()
    for each in graphs:
        each.run(["features"], image)
    assert resident() - before < 100e6


def test_damaged_graphs_and_weights_are_named(tmp_path: Path, graphs: Path) -> None:
    bundle.write(tmp_path, classifier("squeezenet1_1"), graphs)
    graph = tmp_path / graph_file(0)
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-10])
    with pytest.raises(BundleCorrupt, match=graph.name):
        graph_models.load(tmp_path)
    graph.write_bytes(b"nonsense")
    seal(tmp_path)
    with pytest.raises(BundleCorrupt, match=f"{graph.name} cannot be used"):
        graph_models.load(tmp_path)
