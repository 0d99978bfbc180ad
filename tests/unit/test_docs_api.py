"""docs/api.md names every rpc, says which are not served, and lists every reason with its gRPC code."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from services.kit.errors import Code, FailedPrecondition, SightlineError
from sightline.v1 import (
    audit_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    model_service_pb2,
    prediction_service_pb2,
    project_service_pb2,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "api.md").read_text()
MODULES = (
    audit_service_pb2,
    dataset_service_pb2,
    model_service_pb2,
    evaluation_service_pb2,
    prediction_service_pb2,
)
CONTRACT = {
    name: descriptor
    for module in (
        audit_service_pb2,
        dataset_service_pb2,
        evaluation_service_pb2,
        model_service_pb2,
        prediction_service_pb2,
        project_service_pb2,
    )
    for name, descriptor in module.DESCRIPTOR.services_by_name.items()
}


def below(kind: type[SightlineError]) -> Iterator[type[SightlineError]]:
    """Every error of the tree."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_every_rpc_is_named_as_served_or_as_not_served() -> None:
    refused = {
        rpc
        for path in ROOT.glob("services/*/rpc.py")
        for rpc in re.findall(r'NotServedYet\(rpc="(\w+)"', path.read_text())
    }
    kinds = ("Audit", "Dataset", "Model", "Evaluation", "Prediction", "Project")
    assert CONTRACT.keys() == {f"{kind}Service" for kind in kinds}
    for name, service in CONTRACT.items():
        row = re.search(rf"^\| `sightline\.v1\.{name}` \|[^|]*\|([^|]*)\|([^|]*)\|$", DOCUMENT, re.MULTILINE)
        assert row, f"{name} has no row"
        served, not_served = (set(re.findall(r"\w+", cell)) for cell in row.groups())
        rpcs = {method.name for method in service.methods}
        assert served == rpcs - refused
        assert not_served == rpcs & refused


def test_every_reason_is_listed_with_its_code() -> None:
    listed: dict[str, set[str]] = defaultdict(set)
    for reasons, codes in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([A-Z_, ]+|any) \|", DOCUMENT, re.MULTILINE):
        for reason in re.findall(r"`(\w+)`", reasons):
            listed[reason] |= set(codes.split(", "))
    real: dict[str, set[str]] = defaultdict(set)
    for kind in below(SightlineError):
        if "reason" in vars(kind) and kind is not FailedPrecondition:  # that one is a branch, never raised
            real[kind.reason].add("any" if kind.reason == "RemoteError" else Code(kind.code).name)
    assert listed == real
