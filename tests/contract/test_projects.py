"""The contract says which fields hold names of resources, so that no rpc escapes the separation of projects."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from services.infra.projects import holds_name
from services.kit.roles import POLICY
from sightline.v1 import (
    audit_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    model_alias_service_pb2,
    model_service_pb2,
    prediction_service_pb2,
    project_service_pb2,
)
from tests.contract.test_protos import PROTOS

MODULES = (
    audit_service_pb2,
    dataset_service_pb2,
    model_service_pb2,
    model_alias_service_pb2,
    evaluation_service_pb2,
    prediction_service_pb2,
    project_service_pb2,
)
FILES: tuple[FileDescriptor, ...] = tuple(module.DESCRIPTOR for module in MODULES)

# Text that holds no name of a resource. A field with another name has to be marked in the proto, or judged and added.
PLAIN = """annotation_file_uris augmentation backbones base_model_version base_uri batch_prediction_id bundle_digest
    bundle_signature bundle_uri categories category code codes dataset_id device digest display_name etag
    evaluation_id extension file file_name head id image_id input_uri_prefix issuer key left_out_categories message
    metric metric_name model_id model_version network next_page_token order_by other_file output_uri_prefix owner
    page_token path paths peer predicted_category project project_id reason recipe region_category remedy request_id
    resource result_uris roles rpc score_metric service sha256 similar_category snapshot_digest snapshot_uri
    step subject tag test_category test_file training_category training_file true_category type_url unavailable
    untested_categories upload_id uri value verdict warnings"""
# Messages whose `name` is that of a category.
CATEGORIES = {"CategoryStats", "SnapshotCategory", "UnknownCategory", "Tag"}
# Rpcs whose request names no resource: the use case itself looks in the project of the call.
BY_USE_CASE = {
    "CreateDataset",
    "ListDatasets",
    "UploadFiles",
    "ListUploads",
    "ListModels",
    "ListModelAliases",
    "ListBatchPredictions",
    "ListLoadedModels",
    "ListAuditEvents",
    "GetProject",
    "ListProjects",
}


def test_every_text_of_the_contract_is_marked_as_a_name_or_known_to_be_none():
    unknown = [
        f"{message.name}.{field.name}"
        for message, field in texts()
        if not holds_name(field)
        and field.name not in PLAIN.split()
        and not (field.name == "name" and message.name in CATEGORIES)
    ]
    assert unknown == [], "mark it with google.api.resource_reference if it holds the name of a resource"


def test_a_field_that_is_documented_as_a_name_is_marked():
    documented = re.compile(r"((?: *//[^\n]*\n)+)((?: *(?:optional|repeated)? *string \w+ = \d+[^;]*;))")
    name = re.compile(r"`(datasets|models|batchPredictions)/\{")
    checked = 0
    for proto in sorted((PROTOS / "sightline/v1").glob("*.proto")):
        for comment, field in documented.findall(proto.read_text()):
            if name.search(comment):
                checked += 1
                is_own = field.strip().startswith("string name = 1;")
                assert is_own or "google.api.resource_reference" in field, f"{proto.name}: {field}"
    assert checked > 30


def test_every_rpc_names_a_resource_or_is_known_to_look_in_its_project():
    rpcs = [rpc for file in FILES for service in file.services_by_name.values() for rpc in service.methods]
    assert {f"/{rpc.containing_service.full_name}/{rpc.name}" for rpc in rpcs} <= set(POLICY)
    unnamed = {rpc.name for rpc in rpcs if not any(map(holds_name, inside(rpc.input_type, set())))}
    # Creates take the name from the message that they return.
    assert unnamed | {"CreateDataset"} == BY_USE_CASE


def texts() -> list[tuple[Descriptor, FieldDescriptor]]:
    """Every field of text in a request or an answer."""
    seen: set[str] = set()
    rpcs = [rpc for file in FILES for service in file.services_by_name.values() for rpc in service.methods]
    types = [type_ for rpc in rpcs for type_ in (rpc.input_type, rpc.output_type)]
    fields = [field for type_ in types for field in inside(type_, seen)]
    assert len(fields) > 150
    found = [field for field in fields if field.type == FieldDescriptor.TYPE_STRING]
    return [(field.containing_type, field) for field in found if field.containing_type is not None]


def inside(message: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """Every field of the message, and of the messages within."""
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield field
        if field.message_type is not None:
            yield from inside(field.message_type, seen)
