"""Makes the archive of a bundle in one format, and checks that it answers as the bundle does."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from services.vision import bundle, graph_models, graph_tracing, graphs
from services.vision.card import WEIGHTS_FILE, ModelCard, ModelKind
from services.vision.exports import archive, onnx_model, predict, sample, torch_program
from services.vision.exports.description import Subject, card_of, readme_of
from services.vision.exports.formats import ExportFormat, problem_with
from services.vision.graph_tracing import GraphUnavailable
from services.vision.image_detections import ImageDetections
from services.vision.sealing import load_card, seal

CHECKED = 8  # drawn pictures; the one with the surest object is the sample
DETECTED = 0.02  # least score of a detector's objects in the sample's answer: above that of suppression

Answer = Callable[[bytes, float | None], dict[str, Any]]


class Unexportable(ValueError):
    """The model cannot be exported in this format, here; says why and what works."""


class Made(NamedTuple):
    """An archive."""

    path: Path
    max_difference: float  # of scores, from the bundle's


def make(directory: Path, subject: Subject, form: ExportFormat, output: Path, report: Callable[[float], None]) -> Made:
    """Writes the archive into the folder `output`, and reports what share is done; Unexportable, BundleCorrupt."""
    card = load_card(directory)
    if problem := problem_with(card):
        raise Unexportable(problem)
    _require(form)
    report(0.1)
    if form is not ExportFormat.TORCH_EXPORT:
        directory = _with_graphs(directory, card, output / "bundle")
    report(0.4)
    folder = output / "model"
    folder.mkdir()
    _WRITERS[form](directory, card, folder)
    _describe(folder, card, subject, form)
    report(0.8)
    largest = _checked(folder, card, _served(directory, card, subject))
    report(0.95)
    path = output / f"{subject.name.rpartition('/')[2]}-{subject.version}-{form.value}.zip"
    archive.write(path, folder)
    return Made(path, largest)


def _require(form: ExportFormat) -> None:
    try:
        import_module(form.needs)
    except ImportError as fault:
        raise Unexportable(
            f"the worker has no {form.needs} ({fault}); install sightline-services[{form.needs}] where trainer workers"
            " run, or export another format"
        ) from fault


def _with_graphs(directory: Path, card: ModelCard, copy: Path) -> Path:
    """The bundle, or a copy of it with graphs if it was written without."""
    if graph_models.has_graphs(directory):
        return directory
    shutil.copytree(directory, copy)
    folder = copy.parent / "traced"
    try:
        for backbone in card.backbones:
            if backbone.shares is None:
                graph_tracing.add(backbone.name, folder)
        graphs.write(copy, bundle.load(copy), folder)
    except GraphUnavailable as fault:
        raise Unexportable(f"its network has no graph: {fault}") from fault
    seal(copy)
    return copy


def _write_onnx(directory: Path, card: ModelCard, folder: Path) -> None:
    model = onnx_model.build(directory, card)
    (folder / ExportFormat.ONNX.file).write_bytes(model.SerializeToString(deterministic=True))
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        shutil.copyfile(directory / WEIGHTS_FILE, folder / WEIGHTS_FILE)


def _write_torch(directory: Path, _card: ModelCard, folder: Path) -> None:
    torch_program.write(folder / ExportFormat.TORCH_EXPORT.file, bundle.load(directory))


def _write_openvino(directory: Path, card: ModelCard, folder: Path) -> None:
    import openvino  # noqa: PLC0415 - not every worker has it

    source = folder.parent / "onnx"
    source.mkdir()
    _write_onnx(directory, card, source)
    model = openvino.convert_model(source / ExportFormat.ONNX.file)
    openvino.save_model(model, folder / ExportFormat.OPENVINO.file, compress_to_fp16=False)


_WRITERS = {
    ExportFormat.ONNX: _write_onnx,
    ExportFormat.TORCH_EXPORT: _write_torch,
    ExportFormat.OPENVINO: _write_openvino,
}


def _describe(folder: Path, card: ModelCard, subject: Subject, form: ExportFormat) -> None:
    _write_json(folder / "card.json", card_of(card, subject, form))
    names = (one.name.replace("\n", " ") for one in card.categories)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")
    (folder / "README.md").write_text(readme_of(card, subject, form), "utf-8")
    archive.add_script(folder, form, version(form.needs))


def _served(directory: Path, card: ModelCard, subject: Subject) -> Answer:
    """How the predictor answers with this bundle."""
    model = bundle.served(directory)
    known = card_of(card, subject, ExportFormat.ONNX)

    def answer(data: bytes, threshold: float | None) -> dict[str, Any]:
        decoded = model.decode(data)
        (output,) = model.predict_prepared([model.arrange(decoded)])  # pyright: ignore[reportArgumentType] - its own
        outputs: predict.Arrays = {"probabilities": output[None]} if isinstance(output, np.ndarray) else _parts(output)
        return predict.answer_of(known, outputs, decoded.info.width, decoded.info.height, threshold)

    return answer


def _parts(found: ImageDetections) -> predict.Arrays:
    corners = np.concatenate((found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]), axis=1)
    return {"boxes": corners, "scores": found.scores, "labels": found.labels}


def _checked(folder: Path, card: ModelCard, served: Answer) -> float:
    """Adds the sample; returns the largest difference of scores in all drawn pictures. Unexportable if too large."""
    threshold = DETECTED if card.kind is ModelKind.GENERIC_DETECTOR else 0.0
    exported = predict.Model(folder)
    surest, largest = -1.0, 0.0
    for seed in range(CHECKED):
        picture = sample.drawn(seed)
        expected = served(picture, threshold)
        try:
            found = exported.answer(picture, threshold)
            largest = max(largest, predict.difference(expected, found, threshold))
        except ValueError as fault:
            raise Unexportable(f"the exported file answers otherwise than the model: {fault}") from fault
        best = max((one["confidence"] for one in predict.results_of(expected)), default=0.0)
        if best > surest:
            surest = best
            (folder / "sample.png").write_bytes(picture)
            _write_json(folder / "sample.json", {"threshold": threshold, "answer": expected})
    if largest > predict.TOLERANCE:
        raise Unexportable(f"the scores of the exported file differ from the model's by {largest:.1e}")
    return largest


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
