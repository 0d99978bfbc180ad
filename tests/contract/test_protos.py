"""The contract: everything is commented, nothing published changes its meaning, and responses are Azure's JSON."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from services.infra import audit

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
LOCK = PROTOS / "lock.binpb"
BUF = ROOT / "node_modules/.bin/buf"

FIRST_WORDS = ("Required. ", "Optional. ", "Output only. ", "Immutable. ")

# The rpcs of the design: more may be added, none removed.
SERVICES = {
    "DatasetService": """CreateDataset GetDataset ListDatasets UpdateDataset DeleteDataset WatchDataset UploadFiles
        ListFindings ListDatasetSamples CompareDatasets ListUploads ListUploadedFiles DeleteUpload
        ReadImages ReadUploadedFile""",
    "AuditService": "ListAuditEvents",
    "ModelService": """CreateModel GetModel ListModels UpdateModel DeleteModel CancelModel WatchModel ListTrials
        EstimateTraining ExportModel""",
    "ModelAliasService": "SetModelAlias GetModelAlias ListModelAliases RollBackModelAlias DeleteModelAlias",
    "ProjectService": "GetProject ListProjects",
    "EvaluationService": """CreateEvaluation GetEvaluation ListEvaluations DeleteEvaluation WatchEvaluation
        CompareEvaluations""",
    "PredictionService": """AnalyzeImage AnalyzeImages CreateBatchPrediction GetBatchPrediction ListBatchPredictions
        CancelBatchPrediction DeleteBatchPrediction WatchBatchPrediction ReadBatchPredictionFile LoadModel UnloadModel
        ListLoadedModels ExplainImage""",
}

Place: TypeAlias = tuple[int, ...]  # The path of something in its file's descriptor.
Declared: TypeAlias = tuple[str, str, Place]  # Its name, its kind, its path.

# What descriptor.proto calls the fields of the descriptors; a comment's path counts by them.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE = SERVICE_METHOD = 2


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    """Every proto of ours and what it imports, with comments."""
    return compiled(PROTOS, tmp_path_factory.mktemp("contract") / "contract.binpb")


def test_everything_in_the_contract_has_a_comment(contract: FileDescriptorSet):
    bare = [name for file in written(contract) for name, _, comment in commented(file) if not comment]
    assert bare == []


def test_every_fields_comment_begins_with_who_sets_it_and_when(contract: FileDescriptorSet):
    fields = [
        (name, comment) for file in written(contract) for name, kind, comment in commented(file) if kind == "field"
    ]
    assert [name for name, comment in fields if not comment.startswith(FIRST_WORDS)] == []
    assert len(fields) > 200, "the walk over the descriptors found too little to be meaningful"


def test_every_rpc_of_the_design_is_there(contract: FileDescriptorSet):
    found = {service.name: {rpc.name for rpc in service.method} for file in ours(contract) for service in file.service}
    assert found.keys() == SERVICES.keys()
    assert {name: set(rpcs.split()) - found[name] for name, rpcs in SERVICES.items()} == {name: set() for name in found}


def test_every_request_can_be_noted_by_the_audit_even_if_it_names_nothing(contract: FileDescriptorSet):
    pool = pool_of(contract)
    rpcs = [rpc for file in ours(contract) for service in file.service for rpc in service.method]
    for rpc in rpcs:
        audit.about(GetMessageClass(pool.FindMessageTypeByName(rpc.input_type.removeprefix(".")))())
    assert not audit.resource.get()


def pool_of(contract: FileDescriptorSet) -> DescriptorPool:
    pool = DescriptorPool()
    for file in contract.file:
        pool.Add(file)  # adds in any order
    return pool


def test_every_value_that_no_service_uses_says_that_it_is_not_served_yet(contract: FileDescriptorSet):
    code = "\n".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    named, unserved = set(re.findall(r"\w+", code)), tuple(f"{rpc}Request." for rpc in refused_rpcs())
    promised = [
        name
        for file in ours(contract)
        for name, kind, comment in commented(file)
        if kind == "value"
        and name.rsplit(".", 1)[-1] not in named
        and not name.endswith((".BASIC", "_UNSPECIFIED"))  # what leaving a field out means
        and not name.partition(": ")[2].startswith(unserved)
        and "Not served yet" not in comment
    ]
    assert promised == []


def test_an_rpc_says_that_it_is_not_served_if_and_only_if_it_is_not(contract: FileDescriptorSet):
    rpcs = {
        name.rsplit(".", 1)[-1]: comment
        for file in ours(contract)
        for name, kind, comment in commented(file)
        if kind == "rpc"
    }
    assert len(rpcs) > 30
    assert {name for name, comment in rpcs.items() if comment.startswith("Not served yet")} == refused_rpcs()


def test_every_rpc_has_its_own_request(contract: FileDescriptorSet):
    rpcs = [rpc for file in ours(contract) for service in file.service for rpc in service.method]
    assert {rpc.name: rpc.input_type for rpc in rpcs} == {rpc.name: f".sightline.v1.{rpc.name}Request" for rpc in rpcs}


def test_an_image_analysis_is_the_json_that_azure_returned(contract: FileDescriptorSet):
    answer = {
        "modelVersion": "v1",
        "metadata": {"width": 640, "height": 480},
        "customModelResult": {
            "tagsResult": {"values": [{"name": "cat", "confidence": 0.5}, {"name": "dog", "confidence": 0.0}]},
            "objectsResult": {
                "values": [
                    {
                        "id": "1",
                        "boundingBox": {"x": 0, "y": 0, "w": 10, "h": 20},
                        "tags": [{"name": "cat", "confidence": 0.25}],
                    }
                ]
            },
        },
    }
    message = GetMessageClass(pool_of(contract).FindMessageTypeByName("sightline.v1.AnalyzeImageResponse"))()
    json_format.ParseDict(answer, message)
    assert json.loads(json_format.MessageToJson(message)) == answer


def test_the_lock_matches_the_contract(contract: FileDescriptorSet):
    locked = FileDescriptorSet.FromString(LOCK.read_bytes())
    assert sorted(names(locked)) == sorted(names(contract)), "`make proto-lock` takes in what was added"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string display_name = 2;", ""),
        ("string display_name = 2;", "string display_name = 99;"),
        ("string display_name = 2;", "bytes display_name = 2;"),
        ("READY = 2;", "READY = 22;"),
    ],
    ids=["removed field", "renumbered field", "field of another type", "renumbered enum value"],
)
def test_the_lock_refuses_a_breaking_change(tmp_path: Path, old: str, new: str):
    changed = copy_of_protos(tmp_path)
    dataset = changed / "sightline/v1/dataset.proto"
    text = dataset.read_text()
    assert text.count(old) == 1
    dataset.write_text(text.replace(old, new))
    result = run_buf("breaking", str(changed), "--against", str(LOCK))
    assert result.returncode == 100, result.stdout + result.stderr
    assert "dataset.proto" in result.stdout


def test_the_lock_accepts_a_new_field(tmp_path: Path):
    changed = copy_of_protos(tmp_path)
    dataset = changed / "sightline/v1/dataset.proto"
    text = dataset.read_text()
    dataset.write_text(text.replace("string display_name = 2;", "string display_name = 2;\n  string motto = 99;"))
    result = run_buf("breaking", str(changed), "--against", str(LOCK))
    assert result.returncode == 0, result.stdout + result.stderr


def refused_rpcs() -> set[str]:
    """The rpcs that answer UNIMPLEMENTED."""
    code = "\n".join(path.read_text() for path in (ROOT / "services").rglob("rpc.py"))
    return set(re.findall(r'NotServedYet\(rpc="(\w+)"', code))


def compiled(protos: Path, image: Path) -> FileDescriptorSet:
    """The descriptors of our protos in the folder, with their comments and imports."""
    include = resources.files("grpc_tools") / "_proto"
    names = sorted(str(path.relative_to(protos)) for path in protos.glob("sightline/*/*.proto"))
    flags = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    assert protoc.main(["protoc", f"-I{protos}", f"-I{include}", *flags, *names]) == 0
    return FileDescriptorSet.FromString(image.read_bytes())


def ours(contract: FileDescriptorSet) -> list[FileDescriptorProto]:
    """The files of our package."""
    return [file for file in contract.file if file.package == "sightline.v1"]


def written(contract: FileDescriptorSet) -> list[FileDescriptorProto]:
    """Those, and that of the protocol of others."""
    return [file for file in contract.file if file.package in ("sightline.v1", "inference")]


def names(contract: FileDescriptorSet) -> Iterator[str]:
    """The names of everything that our files declare."""
    for file in written(contract):
        yield from (f"{file.name}: {name}" for name, _, _ in declared(file))


def commented(file: FileDescriptorProto) -> Iterator[tuple[str, str, str]]:
    """(name, kind, comment) of everything that a file declares; the comment may be empty."""
    comments = {
        tuple(place.path): (place.leading_comments or place.trailing_comments).strip()
        for place in file.source_code_info.location
    }
    for name, kind, path in declared(file):
        yield f"{file.name}: {name}", kind, comments.get(path, "")


def declared(file: FileDescriptorProto) -> Iterator[Declared]:
    """(name, kind, path) of everything that a file declares."""
    for i, message in enumerate(file.message_type):
        yield from in_message(message, message.name, (FILE_MESSAGE, i))
    for i, enum in enumerate(file.enum_type):
        yield from in_enum(enum, enum.name, (FILE_ENUM, i))
    for i, service in enumerate(file.service):
        yield service.name, "service", (FILE_SERVICE, i)
        for j, rpc in enumerate(service.method):
            yield f"{service.name}.{rpc.name}", "rpc", (FILE_SERVICE, i, SERVICE_METHOD, j)


def in_message(message: DescriptorProto, name: str, path: Place) -> Iterator[Declared]:
    """What a message declares, itself first; not the compiler's own entries of maps and oneofs behind `optional`."""
    if message.options.map_entry:
        return
    yield name, "message", path
    hidden = {field.oneof_index for field in message.field if field.proto3_optional}
    for i, field in enumerate(message.field):
        yield f"{name}.{field.name}", "field", (*path, MESSAGE_FIELD, i)
    for i, oneof in enumerate(message.oneof_decl):
        if i not in hidden:
            yield f"{name}.{oneof.name}", "oneof", (*path, MESSAGE_ONEOF, i)
    for i, nested in enumerate(message.nested_type):
        yield from in_message(nested, f"{name}.{nested.name}", (*path, MESSAGE_NESTED, i))
    for i, enum in enumerate(message.enum_type):
        yield from in_enum(enum, f"{name}.{enum.name}", (*path, MESSAGE_ENUM, i))


def in_enum(enum: EnumDescriptorProto, name: str, path: Place) -> Iterator[Declared]:
    """What an enum declares, itself first."""
    yield name, "enum", path
    for i, value in enumerate(enum.value):
        yield f"{name}.{value.name}", "value", (*path, ENUM_VALUE, i)


def copy_of_protos(folder: Path) -> Path:
    """A copy of protos/ that a test may change."""
    target = folder / "protos"
    for source in [PROTOS / "buf.yaml", *PROTOS.rglob("*.proto")]:
        copy = target / source.relative_to(PROTOS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    return target


def run_buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Buf, as `make setup` installs it."""
    assert BUF.exists(), "buf is not installed: run `make setup`"
    return subprocess.run([str(BUF), *arguments], capture_output=True, text=True, check=False, timeout=60)
