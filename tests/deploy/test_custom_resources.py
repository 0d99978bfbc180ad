"""The custom resource definitions, and the examples that an administrator applies."""

import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import jsonschema
import kubernetes_validate
import msgspec
import pytest
import yaml

from services.operator.kinds import KINDS
from services.operator.resource import GROUP, MUTABLE, MUTABLE_BY_DEFAULT, VERSION
from services.operator.retrained import HISTORY_LIMIT, MIN_INTERVAL, Retraining
from tests.deploy.test_schemas import KUBERNETES, strict
from tests.support import cel
from tests.support.manifests import K8S, ROOT, Resource, render_text

DEFINED: dict[str, Resource] = {
    one["spec"]["names"]["kind"]: one
    for one in map(yaml.safe_load, (path.read_text() for path in (K8S / "crds").glob("*.yaml")))
    if one["kind"] == "CustomResourceDefinition"
}
EXAMPLES: list[Resource] = list(yaml.safe_load_all(render_text(K8S / "examples")))
kinds = pytest.mark.parametrize("kind", DEFINED)


def schema(kind: str) -> Any:
    (version,) = DEFINED[kind]["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def refuse(resource: Resource) -> list[str]:
    """What the structural schema has against the resource. Names are the API server's to check."""
    checked = jsonschema.Draft202012Validator(strict(schema(resource["kind"])))
    return [one.message for one in checked.iter_errors(resource | {"metadata": {}})]


def example(kind: str) -> Resource:
    return deepcopy(next(one for one in EXAMPLES if one["kind"] == kind))


def test_there_is_a_definition_of_every_kind_that_the_operator_serves() -> None:
    assert DEFINED.keys() == KINDS.keys()
    for kind, found in DEFINED.items():
        assert found["metadata"]["name"] == f"{KINDS[kind].plural}.{GROUP}"
        assert [one["name"] for one in found["spec"]["versions"]] == [VERSION]
        for version in KUBERNETES:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_definitions_match_the_protos() -> None:
    command = [sys.executable, "tools/crds.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@kinds
def test_every_example_is_valid(kind: str) -> None:
    found = [one for one in EXAMPLES if one["kind"] == kind]
    assert found
    assert [refuse(one) for one in found] == [[] for _ in found]


def test_the_examples_name_one_another() -> None:
    made = {f"{KINDS[one['kind']].plural}/{one['metadata']['name']}" for one in EXAMPLES}
    model = example("Model")["spec"]
    assert {model["trainingParameters"]["trainingDataset"], model["evaluationParameters"]["testDataset"]} <= made
    assert example("Evaluation")["spec"]["testDataset"] in made
    assert example("BatchPrediction")["spec"]["datasetName"] in made
    alias = f"models/{example('Model')['metadata']['name']}@{model['alias']}"
    assert example("Evaluation")["spec"]["model"] == example("BatchPrediction")["spec"]["modelName"] == alias


@kinds
def test_every_value_of_a_spec_is_bounded_so_that_kubernetes_accepts_the_rules(kind: str) -> None:
    found = list(nested(schema(kind)["properties"]["spec"]))
    assert len(found) > 3
    for one in found:
        if one["type"] == "string":
            assert "enum" in one or one["maxLength"] <= 2048, one
        if one["type"] == "array":
            assert one["maxItems"] <= 100, one
        if "additionalProperties" in one:
            assert one["maxProperties"] <= 100, one


def nested(found: Any) -> Iterator[Any]:
    yield found
    for one in (*found.get("properties", {}).values(), found.get("items"), found.get("additionalProperties")):
        if one:
            yield from nested(one)


@kinds
def test_descriptions_are_sentences_of_their_own(kind: str) -> None:
    for one in nested(schema(kind)["properties"]["spec"]):
        assert not one.get("description", "").startswith(("Immutable", "Required", "Optional")), one


@kinds
def test_exactly_the_fields_that_the_operator_cannot_change_have_a_transition_rule(kind: str) -> None:
    spec = schema(kind)["properties"]["spec"]
    messages = [one["message"] for one in spec["x-kubernetes-validations"] if "oldSelf" in one["rule"]]
    fixed = [one.removesuffix(" cannot be changed; create another resource") for one in messages]
    assert sorted(fixed) == sorted(spec["properties"].keys() - MUTABLE.get(kind, MUTABLE_BY_DEFAULT))
    for one in spec["x-kubernetes-validations"]:
        name = one["message"].split()[0]
        assert "oldSelf" not in one["rule"] or f"self.{name} == oldSelf.{name}" in one["rule"]


@pytest.mark.parametrize(
    ("kind", "changes", "fault"),
    [
        ("Dataset", {"annotationKind": "BIRDS"}, "'BIRDS' is not one of"),
        ("Dataset", {"annotationFileUris": []}, "non-empty"),
        ("Dataset", {"annotationFileUris": ["s3://a/b"] * 11}, "is too long"),
        ("Dataset", {"displayName": "x" * 257}, "is too long"),
        ("Dataset", {"typo": 1}, "'typo' was unexpected"),
        ("Model", {"trainingParameters": None}, "is not of type 'object'"),
        ("Model", {"trainingParameters": {"trainingDataset": "datasets/birds"}}, "'timeBudget' is a required property"),
        ("Model", {"alias": "Production!"}, "does not match"),
        ("Model", {"deletionPolicy": "Orphan"}, "'Orphan' is not one of"),
        ("Model", {"retrainWhen": "Always"}, "'Always' is not one of"),
        ("Model", {"retrainMinInterval": "1d"}, "does not match"),
        ("Model", {"retrainTimeBudget": "10m"}, "does not match"),
        ("Model", {"retrainHistoryLimit": 0}, "less than the minimum"),
        ("Evaluation", {"model": "birds"}, "does not match"),
        ("BatchPrediction", {"scoreThreshold": 1.5}, "greater than the maximum"),
        ("BatchPrediction", {"maxResults": 0}, "less than the minimum"),
    ],
)
def test_a_bad_spec_is_refused(kind: str, changes: dict[str, Any], fault: str) -> None:
    resource = example(kind)
    resource["spec"] |= changes
    assert any(fault in one for one in refuse(resource)), refuse(resource)


@pytest.mark.parametrize("budget", ["10m", "600", "-1s", "1e3s", ""])
def test_a_budget_that_is_no_duration_of_the_contract_is_refused(budget: str) -> None:
    resource = example("Model")
    resource["spec"]["trainingParameters"]["timeBudget"] = budget
    assert any("does not match" in one for one in refuse(resource))


def refused(kind: str, spec: Resource, old: Resource | None = None) -> list[str]:
    """The messages of the rules that a spec breaks: those about its creation, or about a change of the old one."""
    rules = schema(kind)["properties"]["spec"]["x-kubernetes-validations"]
    applied = [one for one in rules if ("oldSelf" in one["rule"]) == (old is not None)]
    return [one["message"] for one in applied if not cel.holds(one["rule"], spec, old)]


@kinds
def test_what_is_fixed_cannot_be_changed_added_or_removed_and_the_rest_can(kind: str) -> None:
    spec = schema(kind)["properties"]["spec"]
    least = dict.fromkeys(spec["required"], "x")
    for name in spec["properties"]:
        is_fixed = name not in MUTABLE.get(kind, MUTABLE_BY_DEFAULT)
        message = f"{name} cannot be changed; create another resource"
        for new, old in (({name: "a"}, {name: "b"}), ({}, {name: "a"}), ({name: "a"}, {})):
            assert refused(kind, least | new, least | old) == [message] * is_fixed
        assert not refused(kind, least | {name: "a"}, least | {name: "a"})


@pytest.mark.parametrize(
    ("sources", "is_accepted"),
    [
        ({"inputUriPrefix": "s3://a/b"}, True),
        ({"datasetName": "datasets/a"}, True),
        ({"inputUriPrefix": "s3://a/b", "datasetName": "datasets/a"}, False),
        ({}, False),
    ],
)
def test_a_batch_prediction_needs_one_source_of_images(sources: dict[str, str], is_accepted: bool) -> None:
    found = refused("BatchPrediction", {"modelName": "models/a"} | sources)
    assert found == ([] if is_accepted else ["set either inputUriPrefix or datasetName"])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"alias": None}, "needs alias and evaluationParameters"),
        ({"evaluationParameters": None}, "needs alias and evaluationParameters"),
        ({"evaluationParameters": {"testDataset": "datasets/birds"}}, "needs test images of their own"),
        ({"alias": None, "evaluationParameters": None, "retrainWhen": None}, ""),
    ],
)
def test_a_model_retrains_only_if_it_can_be_compared(changes: dict[str, Any], fault: str) -> None:
    spec = {name: value for name, value in (example("Model")["spec"] | changes).items() if value is not None}
    found = refused("Model", spec)
    assert bool(found) == bool(fault)
    assert all(fault in one for one in found)


def test_the_defaults_are_those_of_the_operator() -> None:
    properties = schema("Model")["properties"]["spec"]["properties"]
    assert properties["retrainMinInterval"]["default"] == MIN_INTERVAL
    assert properties["retrainHistoryLimit"]["default"] == HISTORY_LIMIT
    entry = schema("Model")["properties"]["status"]["properties"]["retrained"]["additionalProperties"]
    assert set(entry["properties"]) == {one.encode_name for one in msgspec.structs.fields(Retraining)}


@kinds
def test_kubernetes_accepts_the_cost_of_every_rule(kind: str) -> None:
    found = dict(cel.costs(schema(kind)))
    assert len(found) == len(schema(kind)["properties"]["spec"]["x-kubernetes-validations"])
    for rule, cost in found.items():
        assert 1 < cost < cel.MAX_COST / 10, rule
    assert sum(found.values()) < cel.MAX_TOTAL / 10


@kinds
def test_a_rule_that_reads_a_field_without_a_limit_is_found(kind: str) -> None:
    limited = list(compared(schema(kind)["properties"]["spec"]))
    assert limited or kind == "Dataset"  # whose rule is about one of a few words
    for path, limit in limited:
        unbounded = deepcopy(schema(kind))
        found = unbounded["properties"]["spec"]
        for name in path:
            found = found[name]
        del found[limit]
        with pytest.raises(cel.Unbounded, match=limit):
            list(cel.costs(unbounded))


def compared(found: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where fields that rules read have limits, and which: of the field itself or of what is in it."""
    for name, one in found["properties"].items():
        if any(f"self.{name}" in rule["rule"].replace("has(self", "") for rule in found["x-kubernetes-validations"]):
            yield from limits(one, ("properties", name))


def limits(found: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every limit at or below a schema, with its path."""
    yield from ((path, limit) for limit in ("maxLength", "maxItems", "maxProperties") if limit in found)
    for name, one in found.get("properties", {}).items():
        yield from limits(one, (*path, "properties", name))
    for name in ("items", "additionalProperties"):
        if name in found:
            yield from limits(found[name], (*path, name))


def test_the_operator_has_no_more_rights_than_its_work_needs() -> None:
    role = yaml.safe_load((K8S / "crds" / "cluster-role.yaml").read_text())
    plurals = {kind.plural for kind in KINDS.values()}
    granted = {
        (group, name): one["verbs"] for one in role["rules"] for group in one["apiGroups"] for name in one["resources"]
    }
    assert granted == {
        **{(GROUP, plural): ["list", "watch", "patch"] for plural in plurals},
        **{(GROUP, f"{plural}/status"): ["patch"] for plural in plurals},
        ("", "events"): ["create"],
    }
