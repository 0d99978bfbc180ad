"""What an archive says about its model: card.json for programs, README.md for people."""

from typing import Any, NamedTuple

import msgspec

from services.vision.card import InputRule, ModelCard, ModelKind, WeightsSource
from services.vision.catalogue import NETWORKS
from services.vision.exports.formats import ExportFormat
from services.vision.exports.onnx_model import inputs_of


class Subject(NamedTuple):
    """The model that is exported."""

    name: str  # resource name
    version: str
    bundle_digest: str


def outputs_of(card: ModelCard) -> tuple[str, ...]:
    """The names of the model's outputs, in order."""
    return ("boxes", "scores", "labels") if card.kind is ModelKind.GENERIC_DETECTOR else ("probabilities",)


def card_of(card: ModelCard, subject: Subject, form: ExportFormat) -> dict[str, Any]:
    """The bundle's card, with what `predict.py` needs to run the model."""
    inputs: list[dict[str, Any]] = [{"name": one.name, **_rule(one.rule)} for one in inputs_of(card)]
    if card.kind is ModelKind.GENERIC_DETECTOR:
        inputs += [{"name": "inner_size"}, {"name": "image_size"}]
    own = {
        "model": subject.name,
        "version": subject.version,
        "bundle_digest": subject.bundle_digest,
        "format": form.value,
        "file": form.file,
        "needs": form.needs,
        "inputs": inputs,
        "outputs": outputs_of(card),
        "suggested_thresholds": card.suggested_thresholds,
        "licences": licences_of(card),
    }
    return own | msgspec.to_builtins(card)


def licences_of(card: ModelCard) -> list[dict[str, str]]:
    """Where each network's weights came from before training, and their licence; none for random ones."""
    known = NETWORKS[card.kind]
    found = [
        {
            "network": one.name,
            "weights_source": one.weights_source.value,
            "weights_sha256": one.weights_sha256,
            "licence": known[one.name].licence if one.weights_source is not WeightsSource.RANDOM else "",
        }
        for one in card.backbones
        if one.shares is None and one.name in known
    ]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def readme_of(card: ModelCard, subject: Subject, form: ExportFormat) -> str:
    """Markdown: how to run it, and what goes in and comes out."""
    detects = card.kind is ModelKind.GENERIC_DETECTOR
    licences = [
        f"- {one['network']}: {one['licence'] or 'trained from random weights'} ({one['weights_source'].lower()})"
        for one in licences_of(card)
    ]
    return _README.format(
        name=subject.name,
        version=subject.version,
        what="detector" if detects else "classifier",
        format=form.value,
        needs=form.needs,
        file=form.file,
        beside=_BESIDE[form],
        inputs=_DETECTOR_INPUTS if detects else _CLASSIFIER_INPUTS,
        outputs=_DETECTOR_OUTPUTS if detects else _CLASSIFIER_OUTPUTS,
        framings="\n".join(f"- `{one.name}`: {_in_words(one.rule)}" for one in inputs_of(card)),
        licences="\n".join(licences),
    )


def _rule(rule: InputRule) -> dict[str, Any]:
    kept = {"fit": rule.fit, "size": rule.size, "resize": rule.resize, "interpolation": rule.interpolation}
    return {**kept, "at_least": rule.at_least}


def _in_words(rule: InputRule) -> str:
    how = f"with Pillow's {rule.interpolation} filter"
    match rule.fit:
        case "letterbox":
            return (
                f"the longer side scaled to {rule.size} pixels {how}, placed at the top left of a grey (114) canvas"
                " whose sides are the next multiples of 32"
            )
        case "stretch":
            return f"scaled to {rule.size} x {rule.size} pixels {how}"
        case "crop":
            shorter = max(rule.size, rule.resize)
            return (
                f"the shorter side scaled to {shorter} pixels {how}, then the middle {rule.size} x {rule.size} pixels"
            )


_BESIDE = {
    ExportFormat.ONNX: " (with `weights.safetensors` beside it if the weights have 1 GiB or more)",
    ExportFormat.TORCH_EXPORT: "",
    ExportFormat.OPENVINO: " (with `model.bin`, its weights)",
}
_CLASSIFIER_INPUTS = "Each input is a batch of upright RGB images as bytes, uint8 [n, height, width, 3]:"
_DETECTOR_INPUTS = """`image` is one upright RGB image as bytes, uint8 [1, height, width, 3]. `inner_size` is the width
and height that the picture has inside it, without the grey; `image_size` is the picture's own; both are float32 [2]:"""
_CLASSIFIER_OUTPUTS = (
    """`probabilities`, float32 [n, categories], calibrated; categories in the order of `labels.txt`."""
)
_DETECTOR_OUTPUTS = """After suppression, best first: `boxes`, float32 [m, 4]: left, top, right, bottom in pixels of the
picture itself; `scores`, float32 [m]; `labels`, int64 [m]: lines of `labels.txt`, from 0. Scores below the category's
`suggested_thresholds` in `card.json` are best ignored, which `predict.py` does."""
_README = """# {name}, version {version}

A {what} that was trained by Sightline, as {format}. It answers as the suite's predictor does, within 1e-4 of a score.

```
pip install -r requirements.txt
python predict.py --check
python predict.py photo.jpg
```

`predict.py` prints the answer as JSON, in the form of the service's AnalyzeImageResponse. It needs numpy, Pillow and
{needs}. `requirements.txt` has the versions with which the export was checked. Others usually work; `--check` tells.

| file | contents |
|---|---|
| `{file}` | the model{beside} |
| `labels.txt` | the categories, a line each, in the order of the outputs |
| `card.json` | inputs and outputs, thresholds, metrics, the licences of the weights, the digest of the training data |
| `predict.py`, `sightline/` | the script, and how it decodes image files (Apache-2.0) |
| `sample.png`, `sample.json` | a drawn picture, and the service's answer for it |

## Inputs

{inputs}

{framings}

Upright means that the EXIF orientation is applied; transparency is put on white. Colours are normalised inside the
model. The script decodes a JPEG at a half, a quarter or an eighth of its size where `at_least` in `card.json` allows.

## Outputs

{outputs}

## Licences

Of the weights that training started from:

{licences}

Whether the licence of your training data allows passing the model on is for you to know.
"""
