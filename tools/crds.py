"""Writes the custom resource definitions of deploy/k8s/crds from protos/; with --check, compares them.

A field of the contract is part of a resource's spec if its comment begins with `Required.` or `Optional.`; unless the
comment says that it can be updated, Kubernetes refuses to change it. What only the custom resources have, and rules
that span fields, is in `KINDS`. Strings, lists and maps are bounded everywhere, because Kubernetes refuses rules that
might be expensive.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from services.operator.retrained import HISTORY_LIMIT, MIN_INTERVAL, Phase

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy/k8s/crds"
GROUP, VERSION = "sightline.dev", "v1alpha1"
HEAD = "# Made from protos/ by `make manifests`; change tools/crds.py or the protos instead.\n"
FIXED = "{} cannot be changed; create another resource"
DURATION = {
    "type": "string",
    "maxLength": 32,
    "pattern": r"^[0-9]{1,7}(\.[0-9]{1,9})?s$",
    "description": "Seconds, such as `600s`.",
}
DELETION = {
    "type": "string",
    "enum": ["Delete", "Keep"],
    "default": "Delete",
    "description": "Whether deleting this resource deletes it in Sightline too.",
}
MAX_ITEMS, MAX_LENGTH = 100, 2048  # unless `LIMITS` has others
Schema = dict[str, Any]
F = FieldDescriptorProto


@dataclass(frozen=True)
class Kind:
    """One kind of custom resource."""

    kind: str
    plural: str
    message: str
    short: str
    columns: tuple[tuple[str, str, str], ...]  # name, type, path
    extra: dict[str, Schema] = field(default_factory=dict[str, Schema])
    required: tuple[str, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()  # rule, message


STATE = ("State", "string", ".status.state")
PROGRESS = ("Progress", "string", ".status.progress")
METRIC = ("Metric", "string", ".status.metric")
COST = ("Cost", "string", ".status.cost")
SERVES = ("Serves", "string", ".status.servingModel")
READY = ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason')
AGE = ("Age", "date", ".metadata.creationTimestamp")
OF_MODEL: Schema = {
    "type": "string",
    "maxLength": 326,
    "pattern": "^models/[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}(@[a-z0-9-]{1,63})?$",
    "description": "`models/{model}`, or an alias of a model.",
}
RETRAINING: dict[str, Schema] = {
    "retrainWhen": {
        "type": "string",
        "enum": ["DatasetChanged"],
        "description": (
            "DatasetChanged: a new version of the training dataset trains another model. The alias is switched to it "
            "unless it is worse, on the test dataset, than the model that serves. Each training may spend the budget."
        ),
    },
    "retrainTimeBudget": {
        **DURATION,
        "description": "The budget of each training after the first; by default that of trainingParameters.",
    },
    "retrainMinInterval": {
        **DURATION,
        "default": MIN_INTERVAL,
        "description": (
            "The least time between the starts of two trainings, such as `86400s`. Of the versions in between, the "
            "last is trained on."
        ),
    },
    "retrainHistoryLimit": {
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": 20,
        "default": HISTORY_LIMIT,
        "description": "How many retrained models that do not serve are kept, the latest ones.",
    },
}
RETRAINED: Schema = {
    "type": "object",
    "description": "The retrainings whose models are kept, by the id of the model.",
    "additionalProperties": {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "datasetVersion": {"type": "integer", "format": "int32", "description": "Trained on."},
            "datasetDigest": {"type": "string"},
            "startTime": {"type": "string", "format": "date-time"},
            "phase": {"type": "string", "enum": [str(one) for one in Phase]},
            "created": {"type": "boolean"},
            "comparedWith": {"type": "string", "description": "The model that served then."},
            "message": {"type": "string", "description": "How it ended."},
        },
    },
}
KINDS = (
    Kind(
        "Dataset", "datasets", "Dataset", "sds", (STATE, PROGRESS, ("Images", "integer", ".status.images"), READY, AGE)
    ),
    Kind(
        "Model",
        "models",
        "Model",
        "smd",
        (STATE, PROGRESS, METRIC, COST, ("Alias", "string", ".spec.alias"), SERVES, READY, AGE),
        extra={
            "alias": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
                "description": "Once trained, `models/{name}@{alias}` stands for the model.",
            },
            **RETRAINING,
        },
        rules=(
            (
                "!has(self.retrainWhen) || has(self.alias) && has(self.evaluationParameters)",
                "retrainWhen needs alias and evaluationParameters, to compare what it trains with what serves",
            ),
            (
                (
                    "!has(self.retrainWhen) || !has(self.evaluationParameters)"
                    " || self.evaluationParameters.testDataset != self.trainingParameters.trainingDataset"
                ),
                "retrainWhen needs test images of their own: a model is not tested on what it was trained on",
            ),
        ),
    ),
    Kind(
        "Evaluation",
        "evaluations",
        "Evaluation",
        "sev",
        (STATE, PROGRESS, METRIC, COST, READY, AGE),
        extra={"model": OF_MODEL},
        required=("model",),
    ),
    Kind(
        "BatchPrediction",
        "batchpredictions",
        "BatchPrediction",
        "sbp",
        (STATE, PROGRESS, COST, READY, AGE),
        rules=(
            (
                "has(self.inputUriPrefix) != has(self.datasetName)",
                "set either inputUriPrefix or datasetName",
            ),
        ),
    ),
)
# Limits of the contract that its types do not express.
LIMITS: dict[str, Schema] = {
    "Dataset.annotation_file_uris": {"minItems": 1, "maxItems": 10},
    "Dataset.display_name": {"maxLength": 256},
    "Model.display_name": {"maxLength": 256},
    "Evaluation.display_name": {"maxLength": 256},
    "BatchPrediction.display_name": {"maxLength": 256},
    "BatchPrediction.max_results": {"minimum": 1},
    "Hyperparameters.resolution": {"minimum": 32, "maximum": 1024},
    "Hyperparameters.max_trials": {"minimum": 1, "maximum": 1000},
    "Hyperparameters.max_rung": {"minimum": 0},
    "Hyperparameters.seed": {"minimum": 0},
    "BatchPrediction.score_threshold": {"minimum": 0, "maximum": 1},
}
MUTABLE = {"Dataset.annotation_file_uris"}  # other files become the next version
ALTERNATIVES = {"BatchPrediction.input_uri_prefix", "BatchPrediction.dataset_name"}  # one of them is required
STATUS: Schema = {
    "type": "object",
    "properties": {
        "resourceName": {"type": "string", "description": "Its name in Sightline."},
        "project": {"type": "string", "description": "Its project in Sightline."},
        "state": {"type": "string", "description": "Its state in Sightline."},
        "progress": {"type": "string", "description": "How much is done, such as `40%`."},
        "metric": {"type": "string", "description": "The most important metric."},
        "cost": {"type": "string", "description": "Compute charged."},
        "version": {"type": "string", "description": "The version that Sightline has of it."},
        "images": {"type": "integer", "format": "int32", "description": "Images in the dataset."},
        "observedGeneration": {"type": "integer", "format": "int64"},
        "created": {"type": "boolean", "description": "Whether Sightline has created it for this resource."},
        "fixedDigest": {"type": "string", "description": "Of the fields that cannot be changed."},
        "alias": {"type": "string", "description": "The alias that was set."},
        "trainedDatasetVersion": {"type": "integer", "format": "int32"},
        "servingModel": {"type": "string", "description": "With retrainWhen: the model that the alias stands for."},
        "retrained": RETRAINED,
        "resultUris": {"type": "array", "items": {"type": "string"}},
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": {"type": "string"},
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": {"type": "string"},
                    "message": {"type": "string"},
                    "observedGeneration": {"type": "integer", "format": "int64"},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                },
            },
        },
    },
    "x-kubernetes-preserve-unknown-fields": True,  # where kopf keeps its progress
}


class Contract:
    """The messages and enums of the protos, with their comments."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.comments: dict[str, str] = {}
        for file in files.file:
            if file.package != "sightline.v1":
                continue
            comments = {
                tuple(one.path): " ".join(one.leading_comments.split()) for one in file.source_code_info.location
            }
            for number, message in enumerate(file.message_type):
                self.messages[message.name] = message
                for inner in message.enum_type:
                    self.enums[f".sightline.v1.{message.name}.{inner.name}"] = inner
                for at, one in enumerate(message.field):
                    self.comments[f"{message.name}.{one.name}"] = comments.get((4, number, 2, at), "")

    def spec_of(self, message: str, *, mutable: bool = False) -> Schema:
        """The schema of what a caller sets in a message."""
        properties: Schema = {}
        required: list[str] = []
        rules: list[Schema] = []
        for one in self.messages[message].field:
            path = f"{message}.{one.name}"
            comment = self.comments[path]
            if one.name in ("name", "etag") or not comment.startswith(("Required.", "Optional.")):
                continue
            name = one.json_name
            properties[name] = {**self._field(one, comment), **LIMITS.get(path, {})}
            if comment.startswith("Required.") and path not in ALTERNATIVES:
                required.append(name)
            if mutable and "Can be updated" not in comment and path not in MUTABLE:
                same = (
                    f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
                )
                rules.append({"rule": same, "message": FIXED.format(name)})
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if rules:
            schema["x-kubernetes-validations"] = rules
        return schema

    def _field(self, one: FieldDescriptorProto, comment: str) -> Schema:
        text = {"description": comment.partition(" ")[2].removeprefix("Immutable. ")}
        if one.label == F.LABEL_REPEATED:
            if one.type == F.TYPE_MESSAGE:  # the only maps and repeated messages are maps of texts
                return {"type": "object", "maxProperties": 10, "additionalProperties": _TEXT, **text}
            return {"type": "array", "maxItems": MAX_ITEMS, "items": self._scalar(one), **text}
        return {**self._scalar(one), **text}

    def _scalar(self, one: FieldDescriptorProto) -> Schema:
        if one.type == F.TYPE_ENUM:
            values = [value.name for value in self.enums[one.type_name].value if value.number]
            return {"type": "string", "enum": values}
        if one.type == F.TYPE_MESSAGE:
            if one.type_name == ".google.protobuf.Duration":
                return dict(DURATION)
            return self.spec_of(one.type_name.rpartition(".")[2])
        return dict(_SCALARS[one.type])


_TEXT: Schema = {"type": "string", "maxLength": 256}
_SCALARS: dict[int, Schema] = {
    F.TYPE_STRING: {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
    F.TYPE_BOOL: {"type": "boolean"},
    F.TYPE_INT32: {"type": "integer", "format": "int32"},
    F.TYPE_INT64: {"type": "integer", "format": "int64"},
    F.TYPE_FLOAT: {"type": "number"},
    F.TYPE_DOUBLE: {"type": "number"},
}


def specification(kind: Kind, contract: Contract) -> Schema:
    """The schema of a kind's spec: the contract's fields and our own."""
    spec = contract.spec_of(kind.message, mutable=True)
    spec["properties"] |= kind.extra | {"deletionPolicy": DELETION}
    spec["required"] = [*kind.required, *spec.get("required", ())]
    fixed = [{"rule": f"self.{name} == oldSelf.{name}", "message": FIXED.format(name)} for name in kind.required]
    own = [{"rule": rule, "message": message} for rule, message in kind.rules]
    spec["x-kubernetes-validations"] = [*spec.get("x-kubernetes-validations", ()), *fixed, *own]
    return spec


def definition(kind: Kind, contract: Contract) -> Schema:
    """The CustomResourceDefinition of a kind."""
    columns = [{"name": name, "type": type_, "jsonPath": path} for name, type_, path in kind.columns]
    schema: Schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": specification(kind, contract),
            "status": STATUS,
        },
    }
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": schema},
    }
    names = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
        "shortNames": [kind.short],
        "categories": ["sightline"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "sightline"}},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def definitions() -> dict[Path, str]:
    """Each file's path and text."""
    contract = Contract(_compiled())
    dump: Any = yaml.SafeDumper
    dump.ignore_aliases = lambda *_: True
    return {
        FOLDER / f"{kind.plural}.yaml": HEAD
        + yaml.dump(definition(kind, contract), Dumper=dump, sort_keys=False, width=1000)
        for kind in KINDS
    }


def _compiled() -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "contract.binpb"
        include = str(resources.files("grpc_tools") / "_proto")
        protos = ROOT / "protos"
        files = [str(path) for path in sorted((protos / "sightline/v1").glob("*.proto"))]
        arguments = [
            "",
            f"-I{protos}",
            f"-I{include}",
            "--include_source_info",
            f"--descriptor_set_out={target}",
            *files,
        ]
        if protoc.main(arguments):
            raise SystemExit("protoc failed")
        return FileDescriptorSet.FromString(target.read_bytes())


def main() -> int:
    """Writes the files, or compares them; returns 1 if one is out of date."""
    stale = {path: text for path, text in definitions().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date: run `make manifests`")
        else:
            path.write_text(text)
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
