"""Exported equals served: what an archive answers, with nothing but what it asks for, is what the predictor answers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from google.protobuf import json_format

from services.predictor import engines
from services.vision import bundle
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.exports import make as making
from services.vision.exports import predict
from services.vision.exports.description import Subject
from services.vision.exports.formats import ExportFormat
from services.vision.exports.make import Made, Unexportable, make
from tests.support.detectors import detector
from tests.support.exported import (
    Archive,
    combination,
    pictures,
    pretrained_classifier,
    pretrained_detector,
)
from tests.unit.predictor.serving import serving
from tests.unit.vision.test_bundle import card, classifier

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # networks are traced, some of them twice

SUBJECT = Subject("models/m", "v1", "sha256:00")
Build = Callable[[Path], Classifier | Detector]
KINDS: dict[str, Build] = {
    "classifier": lambda weights: pretrained_classifier(card("mobilenet_v2"), weights),
    "combination": lambda _: combination(card("mobilenet_v2")),
    "detector": pretrained_detector,
}


def made(model: Classifier | Detector, form: ExportFormat, folder: Path, traced: Path | None = None) -> Made:
    bundle.write(folder / "bundle", model, traced)
    (folder / "output").mkdir()
    return make(folder / "bundle", SUBJECT, form, folder / "output", lambda _: None)


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.parametrize("form", ExportFormat)
@pytest.mark.parametrize("kind", [pytest.param("classifier", marks=pytest.mark.long), "combination", "detector"])
async def test_an_exported_model_answers_as_the_predictor_does(
    kind: str, form: ExportFormat, tmp_path: Path, weights_dir: Path, test_data: Path, graphs: Path
) -> None:
    model = KINDS[kind](weights_dir)
    exported = made(model, form, tmp_path, graphs)
    archive = Archive(exported.path, tmp_path)
    files = pictures(test_data / "raccoon" / "images" / "0014.jpg")
    paths = [tmp_path / name for name in files]
    for path in paths:
        path.write_bytes(files[path.name])
    found = archive.answers(paths)
    loader = partial(engines.load, device="cpu", threads=1)
    async with serving(tmp_path, loader=loader, network=model) as running:
        served = [json_format.MessageToDict(await running.analyze(files[path.name])) for path in paths]
    detects, compared = kind == "detector", 0
    for path, theirs, ours in zip(paths, served, found, strict=True):
        assert ours["metadata"] == theirs["metadata"], path.name
        results = theirs["customModelResult"]
        results.setdefault("objectsResult" if detects else "tagsResult", {}).setdefault("values", [])
        for one in results.get("objectsResult", {}).get("values", []):
            one["boundingBox"] = {side: one["boundingBox"].get(side, 0) for side in "xywh"}  # JSON leaves zeros out
        assert predict.difference(theirs, ours, 0.05 if detects else 0.0) <= 1e-4, path.name
        compared += len(predict.results_of(theirs))
    assert compared >= len(paths)
    assert exported.max_difference <= 1e-4
    checked = archive.run("--check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    assert not archive.can_import("services")
    assert not archive.can_import("msgspec")
    assert archive.can_import(form.needs)


@pytest.mark.parametrize("form", [ExportFormat.ONNX, ExportFormat.OPENVINO])
def test_no_library_tells_its_makers_that_an_archive_is_used(form: ExportFormat, tmp_path: Path, graphs: Path) -> None:
    archive = Archive(made(combination(card("mobilenet_v2")), form, tmp_path, graphs).path, tmp_path)
    assert archive.run("--check").returncode == 0
    assert list(archive.home.iterdir()) == [], "such as an identity of this machine"


def test_the_same_bundle_gives_the_same_archive_which_tells_what_it_is(tmp_path: Path, graphs: Path) -> None:
    bundle.write(tmp_path / "bundle", combination(card("mobilenet_v2")), graphs)
    archives: list[bytes] = []
    for number in range(2):
        output = tmp_path / str(number)
        output.mkdir()
        archives.append(make(tmp_path / "bundle", SUBJECT, ExportFormat.ONNX, output, lambda _: None).path.read_bytes())
    assert archives[0] == archives[1]
    archive = Archive(archives[0], tmp_path)
    names = [one.filename for one in archive.infos]
    assert names == sorted(names)
    assert {one.date_time for one in archive.infos} == {(1980, 1, 1, 0, 0, 0)}
    described = json.loads((archive.folder / "card.json").read_text())
    assert (described["model"], described["version"]) == ("models/m", "v1")
    assert described["data_digest"] == "sha256:00"
    assert described["suggested_thresholds"] == [0.4, 0.5, 0.6]
    assert [one["network"] for one in described["licences"]] == ["mobilenet_v2", "squeezenet1_1"]
    assert (archive.folder / "labels.txt").read_text().splitlines() == ["cat", "dög", "elk"]
    assert "pip install -r requirements.txt" in (archive.folder / "README.md").read_text()


def test_the_check_fails_if_the_model_answers_otherwise(tmp_path: Path, graphs: Path) -> None:
    archive = Archive(made(combination(card("mobilenet_v2")), ExportFormat.ONNX, tmp_path, graphs).path, tmp_path)
    sample = json.loads((archive.folder / "sample.json").read_text())
    sample["answer"]["customModelResult"]["tagsResult"]["values"][0]["confidence"] += 2e-4
    (archive.folder / "sample.json").write_text(json.dumps(sample))
    done = archive.run("--check")
    assert done.returncode == 1
    assert "differ by 2.0e-04" in done.stderr
    sample["answer"]["customModelResult"]["tagsResult"]["values"][0]["name"] = "yak"
    (archive.folder / "sample.json").write_text(json.dumps(sample))
    assert "yak" in archive.run("--check").stderr


@pytest.mark.parametrize("name", ["dfine_nano", "rfdetr_small", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_network_that_no_format_can_hold_is_refused_with_what_works(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unexportable, match=rf"{name}.*YOLOX.*can be exported"):
        made(detector(name), ExportFormat.TORCH_EXPORT, tmp_path)


def test_a_worker_without_the_package_of_a_format_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(making, "import_module", missing)
    with pytest.raises(Unexportable, match=r"no openvino .*sightline-services\[openvino\]"):
        made(classifier("squeezenet1_1"), ExportFormat.OPENVINO, tmp_path)


def test_a_bundle_without_graphs_gets_them_for_the_export(tmp_path: Path) -> None:
    exported = made(classifier("squeezenet1_1"), ExportFormat.ONNX, tmp_path)
    assert exported.max_difference <= 1e-4
    assert not list((tmp_path / "bundle").glob("*.onnx"))


def test_large_weights_stay_beside_the_model(tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.vision.exports.onnx_model.INSIDE_BYTES", 1000)
    archive = Archive(made(combination(card("mobilenet_v2")), ExportFormat.ONNX, tmp_path, graphs).path, tmp_path)
    assert (archive.folder / "model.onnx").stat().st_size < 1_000_000
    assert (archive.folder / "weights.safetensors").stat().st_size > 1_000_000
    assert archive.run("--check").returncode == 0


def test_an_export_that_answers_otherwise_is_not_delivered(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = predict.Model.answer

    def off(model: predict.Model, data: bytes, threshold: float | None = None) -> predict.Json:
        found = answer(model, data, threshold)
        for tag in predict.results_of(found):
            tag["confidence"] += 2e-4
        return found

    monkeypatch.setattr(predict.Model, "answer", off)
    with pytest.raises(Unexportable, match="differ from the model's by 2"):
        made(combination(card("mobilenet_v2")), ExportFormat.ONNX, tmp_path, graphs)
