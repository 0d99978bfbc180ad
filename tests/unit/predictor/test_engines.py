"""Which engine runs a bundle, and that predicting on a CPU takes no torch."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from services.predictor import engines
from services.predictor.domain import ModelRunner
from services.vision import bundle, graph_models
from services.vision.classifier import Classifier
from services.vision.graph_models import GraphClassifier
from services.vision.openvino_graphs import OpenVinoGraph
from services.vision.sealing import BundleCorrupt
from tests.support.hostile_images import encoded
from tests.unit.vision.test_bundle import classifier

WITHOUT_TORCH = """
import sys
from pathlib import Path

sys.modules["torch"] = None  # whoever imports it gets a ModuleNotFoundError
import services.predictor.__main__
from services.predictor import engines
from services.vision.sealing import BundleCorrupt

for folder in sys.argv[2:]:
    try:
        model = engines.load(Path(folder), "cpu", 1, digest="")
        print(*model.predict_prepared([model.prepare(Path(sys.argv[1]).read_bytes())])[0])
    except BundleCorrupt as fault:
        print(fault)
"""


@pytest.fixture(scope="module")
def model() -> Classifier:
    return classifier("squeezenet1_1")


@pytest.fixture(scope="module")
def with_graphs(model: Classifier, graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    bundle.write(folder, model, graphs)
    return folder


@pytest.fixture
def without_graphs(model: Classifier, tmp_path: Path) -> Path:
    bundle.write(tmp_path / "plain", model)
    return tmp_path / "plain"


def test_graphs_run_in_onnx_runtime_and_bundles_without_them_in_torch(with_graphs: Path, without_graphs: Path) -> None:
    assert isinstance(engines.load(with_graphs, "cpu", 1, digest=""), GraphClassifier)
    assert isinstance(engines.load(without_graphs, "cpu", 1, digest=""), Classifier)


def every_kind_of_file() -> dict[str, bytes]:
    random = np.random.default_rng(6)
    image = Image.fromarray(random.integers(0, 256, (60, 97, 3), np.uint8)).resize((291, 180))
    files = {form: encoded(image, form) for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF")}
    for mode in ("L", "CMYK"):
        files[mode] = encoded(image.convert(mode), "JPEG")
    for mode in ("P", "1", "LA", "RGBA", "I;16"):
        files[mode] = encoded(image.convert("L").convert(mode) if mode in "LA I;16" else image.convert(mode), "PNG")
    for orientation in range(1, 9):
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = orientation
        files[f"EXIF {orientation}"] = encoded(image, "JPEG", exif=turned)
    return files


def in_float32(folder: Path) -> ModelRunner:
    return graph_models.opened(folder, partial(OpenVinoGraph, passes=1, threads=1, bfloat16=False))


@pytest.mark.parametrize("load", [partial(engines.load, device="cpu", threads=1, digest=""), in_float32])
def test_every_engine_gives_the_same_probabilities_for_every_format_and_orientation(
    model: Classifier, with_graphs: Path, load: Callable[[Path], ModelRunner]
) -> None:
    served = load(with_graphs)
    for name, data in every_kind_of_file().items():
        (expected,) = model.predict_prepared([model.prepare(data)])
        (found,) = served.predict_prepared([served.arrange(served.decode(data))])
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4, err_msg=name)


def on_openvino(folder: Path) -> ModelRunner:
    return engines.load(folder, "cpu", 1, digest="", cpu_engine="openvino", passes=2)


def test_openvino_computes_with_less_precision_while_that_changes_few_scores(
    with_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = engines.load(with_graphs, "cpu", 1, digest="")
    image = encoded(Image.effect_noise((90, 70), 99).convert("RGB"), "PNG")
    expected, fast = (scores_of(model, image) for model in (exact, on_openvino(with_graphs)))
    assert 0 < np.abs(fast - expected).max() <= engines.TOLERANCE
    monkeypatch.setattr(engines, "TOLERANCE", 1e-5)
    assert scores_of(on_openvino(with_graphs), image) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(engines, "TOLERANCE", -1.0)
    assert (scores_of(on_openvino(with_graphs), image) == expected).all()


def test_several_threads_share_a_model_in_openvino(with_graphs: Path) -> None:
    model = on_openvino(with_graphs)
    images = [encoded(Image.effect_noise((90, 70), 10.0 * one).convert("RGB"), "PNG") for one in range(1, 9)]
    expected = [scores_of(model, image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(partial(scores_of, model), 10 * images))
    np.testing.assert_allclose(found, 10 * expected, atol=1e-6)


def scores_of(model: ModelRunner, image: bytes) -> NDArray[np.float32]:
    (scores,) = model.predict_prepared([model.arrange(model.decode(image))])
    return np.asarray(scores)


def test_a_bundle_that_is_not_the_one_of_the_record_is_refused_by_both(with_graphs: Path, without_graphs: Path) -> None:
    for folder in (with_graphs, without_graphs):
        with pytest.raises(BundleCorrupt, match="record"):
            engines.load(folder, "cpu", 1, digest="sha256:" + "0" * 64)


def test_a_replica_without_torch_predicts_from_graphs_and_names_the_image_for_other_bundles(
    model: Classifier, with_graphs: Path, without_graphs: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)
    photo.write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    command = [sys.executable, "-c", WITHOUT_TORCH, photo, with_graphs, without_graphs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    probabilities, fault = done.stdout.splitlines()
    (expected,) = model.predict_prepared([model.prepare(photo.read_bytes())])
    np.testing.assert_allclose([float(one) for one in probabilities.split()], expected, atol=1e-4)
    assert "sightline-predictor-torch" in fault


def test_a_model_at_rest_answers_as_before(with_graphs: Path) -> None:
    model = graph_models.load(with_graphs)
    assert isinstance(model, GraphClassifier)
    prepared = [model.prepare(encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG"))]
    before = model.predict_prepared(prepared)
    model.rest()
    assert np.array_equal(model.predict_prepared(prepared), before)
