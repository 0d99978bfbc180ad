"""The formats of an export, and which models they cannot hold. No torch."""

from enum import StrEnum
from types import MappingProxyType

from services.vision.card import ModelCard, ModelKind
from services.vision.catalogue import DETECTORS, Family


class ExportFormat(StrEnum):
    """A format of an exported model."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"
    OPENVINO = "openvino"

    @property
    def file(self) -> str:
        """The file in the archive that a program loads."""
        return {"onnx": "model.onnx", "torch-export": "model.pt2", "openvino": "model.xml"}[self.value]

    @property
    def needs(self) -> str:
        """The package that runs it, besides numpy and Pillow."""
        return {"onnx": "onnxruntime", "torch-export": "torch", "openvino": "openvino"}[self.value]


INPUT_SIDES = "computes with the sides of its input in Python, which a graph fixes"
_WITHOUT_GRAPH = MappingProxyType(
    {
        Family.D_FINE: INPUT_SIDES,
        Family.RF_DETR: INPUT_SIDES,
        Family.FASTER_RCNN: "proposes as many regions as an image needs, which a graph cannot",
    }
)


def problem_with(card: ModelCard) -> str:
    """Why no format can hold the model, and what works instead; empty if one may."""
    if card.kind is not ModelKind.GENERIC_DETECTOR:
        return ""
    spec = DETECTORS.get(card.backbones[0].name)
    if spec is None or spec.family not in _WITHOUT_GRAPH:
        return ""
    others = sorted({one.family.value for one in DETECTORS.values() if one.family not in _WITHOUT_GRAPH})
    return (
        f"its network {spec.name} ({spec.family}) {_WITHOUT_GRAPH[spec.family]}; detectors of the families"
        f" {', '.join(others)} can be exported: train one with hyperparameters.backbones, or use this model's bundle"
    )
