"""Every overlay of deploy/k8s, and base with each component, is valid for Kubernetes and the operators."""

import functools
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.manifests import COMBINATIONS, K8S, NAMES, OURS, ROOT, Resource, as_builtin, of_kind, resources, tool

KUBERNETES = ("1.30", "1.37")  # the oldest and the newest that are supported; they see fields come and go
SCHEMAS = Path(__file__).with_name("schemas")  # their SOURCE.md says where each is from
KEDA = ("keda-2.15.1", "keda-2.20.1", "keda-8b4f083")  # the oldest supported, a stricter one, a later one
VERSIONS = {
    "ScaledJob": KEDA,
    **dict.fromkeys(("ServiceMonitor", "PodMonitor", "PrometheusRule"), ("prometheus-operator-0.93.0",)),
    **dict.fromkeys(("Certificate", "Issuer"), ("cert-manager-1.17.1",)),
    **dict.fromkeys(("ResourceFlavor", "ClusterQueue", "LocalQueue"), ("kueue-v1beta2",)),
}
WITH_CUSTOM_RESOURCES = {
    *("autoscaling", "certificates", "identity", "kueue", "monitoring", "openshift", "all"),
    *("overlay production", "chart everything"),
}
rendering = pytest.mark.parametrize("name", NAMES)


def test_every_component_is_tested() -> None:
    components = {path.name for path in (K8S / "components").iterdir()}
    assert components == {one for combination in COMBINATIONS.values() for one in combination}


@rendering
def test_every_resource_is_valid_for_kubernetes_and_has_only_known_fields(name: str) -> None:
    builtin = [one for one in map(as_builtin, resources(name)) if one["kind"] not in VERSIONS]
    assert OURS.keys() < {one["metadata"]["name"] for one in builtin}
    for resource in builtin:
        for version in KUBERNETES:
            kubernetes_validate.validate(resource, version, strict=True)


@rendering
def test_every_custom_resource_is_valid_for_its_operator(name: str) -> None:
    custom = [one for one in resources(name) if one["kind"] in VERSIONS]
    assert bool(custom) == (name in WITH_CUSTOM_RESOURCES)
    for resource in custom:
        for version in VERSIONS[resource["kind"]]:
            check(resource, version)


@functools.cache
def schema(version: str, kind: str) -> Any:
    """An operator's schema of a kind, with unknown fields forbidden."""
    return strict(yaml.safe_load((SCHEMAS / f"{version}.yaml").read_text())[kind])


def strict(schema: Any) -> Any:
    """The schema with unknown fields forbidden: the cluster would drop them silently."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def check(resource: Resource, version: str) -> None:
    """ValidationError if that version of the operator refuses the resource."""
    metadata = {"metadata": {}}  # validated by the API server; the schema only says that it is an object
    jsonschema.Draft202012Validator(schema(version, resource["kind"])).validate(resource | metadata)


def one_of(kind: str) -> Resource:
    """A copy of our resource of the kind, to be changed by a test."""
    return deepcopy(of_kind("all", kind)[0])


def test_some_versions_of_keda_refuse_the_name_of_the_default_strategy() -> None:
    job = one_of("ScaledJob")
    job["spec"]["scalingStrategy"] = {"strategy": "default"}
    check(job, "keda-2.15.1")
    check(job, "keda-8b4f083")
    with pytest.raises(jsonschema.ValidationError, match="'default' is not one of"):
        check(job, "keda-2.20.1")


@pytest.mark.parametrize("kind", VERSIONS)
def test_an_unknown_field_is_refused(kind: str) -> None:
    resource = one_of(kind)
    resource["spec"] = resource.get("spec", {}) | {"typo": 1}
    assert VERSIONS[kind]
    for version in VERSIONS[kind]:
        with pytest.raises(jsonschema.ValidationError, match="'typo' was unexpected"):
            check(resource, version)


def test_the_oldest_keda_requires_the_status_of_a_condition() -> None:
    job = one_of("ScaledJob")
    del job["spec"]["jobTargetRef"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"]
    with pytest.raises(jsonschema.ValidationError, match="'status' is a required property"):
        check(job, "keda-2.15.1")


def test_the_trigger_has_every_required_parameter_of_kedas_scaler_and_no_unknown_one() -> None:
    parameters = yaml.safe_load((SCHEMAS / "keda-8b4f083-nats-jetstream.yaml").read_text())["parameters"]
    (trigger,) = one_of("ScaledJob")["spec"]["triggers"]
    needed = {one["name"] for one in parameters if not one.get("optional") and "default" not in one}
    assert needed <= trigger["metadata"].keys() <= {one["name"] for one in parameters}


def test_checkov_finds_only_explained_problems(tmp_path: Path) -> None:
    for name in (one for one in NAMES if one != "openshift"):  # where the cluster chooses the user
        made = [as_builtin(one) for one in resources(name)]
        (tmp_path / f"{name.replace(' ', '-')}.yaml").write_text(yaml.safe_dump_all(made))
    program = ROOT / ".venv" / "checkov" / "bin" / "checkov"
    command = [str(program) if program.exists() else tool("checkov"), "--config-file", "deploy/checkov.yaml"]
    done = subprocess.run([*command, "-d", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_clusters_rules_and_dashboard_match_their_sources() -> None:
    done = subprocess.run(
        [sys.executable, "tools/manifests.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert of_kind("monitoring", "PrometheusRule")
