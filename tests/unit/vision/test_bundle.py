"""Bundles: a changed one is refused; a classifier's probabilities do not depend on the batch."""

import json
import pickle
import re
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from services.vision import bundle
from services.vision.backbones import build
from services.vision.bundle import BundleCorrupt
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, WeightsSource, read_card, write_card
from services.vision.catalogue import BACKBONES
from services.vision.classifier import BATCH_SIZE, Classifier, ClassifierNetwork
from services.vision.detector import Detector
from services.vision.preprocess import apply
from tests.support.classifiers import classifier_of, predict
from tests.support.detectors import detector, detector_card


def card(*names: str, temperature: float = 1.0, size: int = 64) -> ModelCard:
    return ModelCard(
        kind=ModelKind.GENERIC_CLASSIFIER,
        categories=(CardCategory(3, "cat"), CardCategory(5, "d\u00f6g"), CardCategory(9, "elk")),
        backbones=tuple(CardBackbone(name, BACKBONES[name].rule.resized(size), WeightsSource.RANDOM) for name in names),
        temperature=temperature,
        thresholds=(0.4, 0.5, 0.6),
        data_digest="sha256:00",
        metrics={"accuracy_top1": 0.75},
        metrics_source="CROSS_VALIDATION",
        ledger={"charged_seconds": 12.5},
        warnings=("Training started from random weights.",),
        created=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    )


def classifier(*names: str, temperature: float = 1.0) -> Classifier:
    trunks = [build(name, 1, seed=0) for name in names]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        head = nn.Linear(sum(trunk.backbone.feature_dim for trunk in trunks), 3)
        nn.init.normal_(head.weight)
    made = card(*names, temperature=temperature)
    return Classifier(made, ClassifierNetwork(made.backbones, trunks, head))


def two_framings() -> Classifier:
    """One network that sees the centre and the whole of an image, and a head on features of unit length.

    Of the whole, the head reads the stage before the last too.
    """
    trunk = build("mobilenet_v3_small", 1, seed=0)
    (cropped,) = card("mobilenet_v3_small").backbones
    whole = replace(cropped, rule=replace(cropped.rule, fit="stretch"), shares=0, normalised=True, middle=True)
    made = replace(card(), backbones=(replace(cropped, normalised=True), whole))
    return Classifier(made, ClassifierNetwork(made.backbones, [trunk, trunk], nn.Linear(2 * 576 + 48, 3)))


def sample_images(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (70 + 3 * i, 90, 3), dtype=np.uint8) for i in range(count)]


def test_a_loaded_bundle_predicts_the_same_as_the_written_model(tmp_path: Path) -> None:
    written = classifier("mobilenet_v3_small", "squeezenet1_1", temperature=1.7)
    expected = predict(written, sample_images(3))
    digest = bundle.write(tmp_path, written)
    loaded = bundle.load(tmp_path)
    assert isinstance(loaded, Classifier)
    np.testing.assert_array_equal(predict(loaded, sample_images(3)), expected)
    assert loaded.card == written.card
    assert digest == bundle.seal(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "digests.json", "weights.safetensors"]


def test_a_network_that_sees_an_image_in_two_framings_is_stored_once(tmp_path: Path) -> None:
    written = two_framings()
    bundle.write(tmp_path, written)
    loaded = bundle.load(tmp_path)
    assert isinstance(loaded, Classifier)
    np.testing.assert_allclose(predict(loaded, sample_images(3)), predict(written, sample_images(3)), atol=1e-6)
    assert loaded.size_bytes < 1.01 * classifier("mobilenet_v3_small").size_bytes
    with torch.inference_mode():
        cropped, whole = (apply(sample_images(1)[0], backbone.rule)[None] for backbone in written.card.backbones)
        (trunk,) = written.network.networks()
        features = [trunk.embed(cropped), *trunk.embed_stages(whole)]
        expected = written.network.head(torch.cat([block / block.norm() for block in features], dim=1)).softmax(dim=1)
    np.testing.assert_allclose(predict(written, sample_images(1)), expected.numpy(), atol=1e-6)


def test_a_card_from_before_features_were_normalised_is_read_as_it_was_meant() -> None:
    present = json.loads(write_card(card("squeezenet1_1")))
    for added in ("normalised", "shares", "middle", "tuned"):
        del present["backbones"][0][added]
    assert read_card(json.dumps(present).encode()) == card("squeezenet1_1")


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    assert bundle.write(tmp_path / "a", classifier("squeezenet1_1")) == bundle.write(
        tmp_path / "b", classifier("squeezenet1_1")
    )


def test_one_fine_tuned_network_becomes_a_classifier_with_its_own_head() -> None:
    network = build("mobilenet_v3_small", 3, seed=0).eval()
    images = sample_images(2)
    batch = torch.stack([apply(image, network.backbone.rule.resized(64)) for image in images])
    with torch.inference_mode():
        expected = network(batch).softmax(dim=1)
    got = predict(classifier_of(card("mobilenet_v3_small"), network), images)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


def test_probabilities_sum_to_one_and_flatten_with_temperature() -> None:
    sharp, flat = classifier("squeezenet1_1"), classifier("squeezenet1_1", temperature=4.0)
    probabilities = predict(sharp, sample_images(4))
    assert probabilities.shape == (4, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert predict(flat, sample_images(4)).max() < probabilities.max()
    assert predict(sharp, []).shape == (0, 3)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_an_image_s_probabilities_do_not_depend_on_its_batch(name: str) -> None:
    model = classifier(name)
    images = sample_images(BATCH_SIZE + 3)
    together = predict(model, images)
    alone = np.concatenate([predict(model, [image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(predict(model, images[::-1])[::-1], together, atol=1e-5)


def test_a_file_and_its_pixels_give_the_same_probabilities() -> None:
    model = classifier("mobilenet_v3_small", "squeezenet1_1")
    out = BytesIO()
    Image.fromarray(sample_images(1)[0]).save(out, "PNG")
    prepared = model.prepare(out.getvalue())
    assert len(prepared) == 2
    np.testing.assert_array_equal(model.predict_prepared([prepared]), predict(model, sample_images(1)))


def test_any_changed_or_missing_file_is_detected(tmp_path: Path) -> None:
    model = classifier("squeezenet1_1")
    for name in ("weights.safetensors", "card.json", "digests.json"):
        folder = tmp_path / name
        bundle.write(folder, model)
        data = bytearray((folder / name).read_bytes())
        data[-5] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(BundleCorrupt):
            bundle.load(folder)
        (folder / name).unlink()
        with pytest.raises(BundleCorrupt):
            bundle.load(folder)


def test_additional_files_are_sealed_too(tmp_path: Path) -> None:
    before = bundle.write(tmp_path, classifier("squeezenet1_1"))
    (tmp_path / "model.onnx").write_bytes(b"graph")
    assert bundle.seal(tmp_path) != before
    bundle.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorrupt, match=r"model\.onnx"):
        bundle.load(tmp_path)


def test_digests_may_not_name_a_file_outside_the_bundle(tmp_path: Path) -> None:
    bundle.write(tmp_path, classifier("squeezenet1_1"))
    text = (tmp_path / "digests.json").read_text()
    (tmp_path / "digests.json").write_text(text.replace("{", '{"../card.json":"00",', 1))
    with pytest.raises(BundleCorrupt, match="card"):
        bundle.load(tmp_path)


def test_weights_that_do_not_fit_the_card_and_pickles_are_refused(tmp_path: Path) -> None:
    model = classifier("squeezenet1_1")
    bundle.write(tmp_path, model)
    (tmp_path / "card.json").write_bytes(write_card(card("mobilenet_v3_small")))
    bundle.seal(tmp_path)
    with pytest.raises(BundleCorrupt, match="does not fit"):
        bundle.load(tmp_path)
    (tmp_path / "card.json").write_bytes(write_card(model.card))
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps({"head.weight": 1}))
    bundle.seal(tmp_path)
    with pytest.raises(BundleCorrupt):
        bundle.load(tmp_path)


def test_an_unknown_backbone_is_refused(tmp_path: Path) -> None:
    bundle.write(tmp_path, classifier("squeezenet1_1"))
    text = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(text.replace("squeezenet1_1", "squeezenet9_9"))
    bundle.seal(tmp_path)
    with pytest.raises(BundleCorrupt, match="squeezenet9_9"):
        bundle.load(tmp_path)


def test_a_card_round_trips_and_another_version_is_refused() -> None:
    original = card("resnet18", "mobilenet_v2_keras")
    assert read_card(write_card(original)) == original
    with pytest.raises(ValueError, match="card format 2"):
        read_card(write_card(original).replace(b'"format_version":1', b'"format_version":2'))


def test_loading_does_not_initialise_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.write(tmp_path, classifier("resnet18"))
    made: list[str] = []
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda tensor, **_: made.append(str(tensor.device)))
    assert bundle.load(tmp_path).size_bytes == pytest.approx(44.7e6, rel=0.02)
    assert set(made) <= {"meta"}


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "dfine_nano", "rfdetr_small"])
def test_a_detector_s_bundle_predicts_the_same_as_the_detector(name: str, tmp_path: Path) -> None:
    written = detector(name)
    images = [written.prepare_pixels(rgb, rgb.shape[1], rgb.shape[0]) for rgb in sample_images(2)]
    digest = bundle.write(tmp_path / "a", written)
    assert digest == bundle.write(tmp_path / "b", detector(name))
    loaded = bundle.load(tmp_path / "a")
    assert isinstance(loaded, Detector)
    assert loaded.card == written.card
    assert loaded.size_bytes == written.size_bytes
    for ours, theirs in zip(loaded.predict_prepared(images), written.predict_prepared(images), strict=True):
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
    (tmp_path / "a" / "card.json").write_bytes(write_card(detector_card("yolox_nano")))
    bundle.seal(tmp_path / "a")
    with pytest.raises(BundleCorrupt, match="does not fit"):
        bundle.load(tmp_path / "a")


def test_a_detector_s_card_must_name_a_network_of_the_catalogue(tmp_path: Path) -> None:
    bundle.write(tmp_path, detector())
    text = (tmp_path / "card.json").read_text()
    for other in (text.replace("yolox_nano", "yolox_giga"), re.sub(r'"backbones":\[.*?\}\]', '"backbones":[]', text)):
        assert other != text
        (tmp_path / "card.json").write_text(other)
        bundle.seal(tmp_path)
        with pytest.raises(BundleCorrupt, match="does not fit"):
            bundle.load(tmp_path)


def test_cards_from_before_there_were_detectors_still_load() -> None:
    data = write_card(card("resnet18"))
    old = re.sub(rb',"suppression":\{[^}]*\}|"suppression":\{[^}]*\},', b"", data)
    assert b"suppression" not in old
    assert read_card(old) == card("resnet18")
