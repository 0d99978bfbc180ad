"""Every overlay of deploy/k8s, and base with each component, is what Kubernetes and the operators take."""

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

from tests.support.manifests import COMBINATIONS, K8S, NAMES, ROOT, Resource, as_builtin, of_kind, resources, tool

KUBERNETES = "1.32"
SCHEMAS = Path(__file__).with_name("schemas")  # where each is from: SOURCE.md beside them
KEDA = ("keda-2.15.1", "keda-2.20.1", "keda-8b4f083")  # the oldest that we ask for, one that refuses more, a later one
VERSIONS = {
    "ScaledJob": KEDA,
    **dict.fromkeys(("ServiceMonitor", "PodMonitor", "PrometheusRule"), ("prometheus-operator-0.93.0",)),
    **dict.fromkeys(("ResourceFlavor", "ClusterQueue", "LocalQueue"), ("kueue-v1beta2",)),
}
rendering = pytest.mark.parametrize("name", NAMES)


def test_every_component_is_tried() -> None:
    components = {path.name for path in (K8S / "components").iterdir()}
    assert components == {one for combination in COMBINATIONS.values() for one in combination}


@rendering
def test_kubernetes_takes_every_resource_and_knows_every_field(name: str) -> None:
    for resource in map(as_builtin, resources(name)):
        if resource["kind"] not in VERSIONS:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)


@rendering
def test_the_operators_take_their_resources(name: str) -> None:
    for resource in resources(name):
        for version in VERSIONS.get(resource["kind"], ()):
            check(resource, version)


@functools.cache
def schema(version: str, kind: str) -> Any:
    """An operator's schema of a kind, closed."""
    return _closed(yaml.safe_load((SCHEMAS / f"{version}.yaml").read_text())[kind])


def _closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name: the cluster would drop them without a word."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def check(resource: Resource, version: str) -> None:
    """ValidationError if that version of the operator does not take the resource."""
    metadata = {"metadata": {}}  # the API server's own; the schema says only that it is an object
    jsonschema.Draft202012Validator(schema(version, resource["kind"])).validate(resource | metadata)


def one_of(kind: str) -> Resource:
    """A copy of our resource of the kind, to be spoilt."""
    return deepcopy(of_kind("all", kind)[0])


def test_the_name_of_the_default_strategy_is_one_that_some_versions_of_keda_refuse() -> None:
    job = one_of("ScaledJob")
    job["spec"]["scalingStrategy"] = {"strategy": "default"}
    check(job, "keda-2.15.1")
    check(job, "keda-8b4f083")
    with pytest.raises(jsonschema.ValidationError, match="'default' is not one of"):
        check(job, "keda-2.20.1")


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_field_that_no_version_knows_is_found(kind: str) -> None:
    resource = one_of(kind)
    resource["spec"] = resource.get("spec", {}) | {"typo": 1}
    assert VERSIONS[kind]
    for version in VERSIONS[kind]:
        with pytest.raises(jsonschema.ValidationError, match="'typo' was unexpected"):
            check(resource, version)


def test_the_oldest_keda_wants_the_status_of_a_condition_said() -> None:
    job = one_of("ScaledJob")
    del job["spec"]["jobTargetRef"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"]
    with pytest.raises(jsonschema.ValidationError, match="'status' is a required property"):
        check(job, "keda-2.15.1")


def test_kedas_scaler_knows_every_parameter_of_the_trigger_and_has_those_that_it_needs() -> None:
    parameters = yaml.safe_load((SCHEMAS / "keda-8b4f083-nats-jetstream.yaml").read_text())["parameters"]
    (trigger,) = one_of("ScaledJob")["spec"]["triggers"]
    needed = {one["name"] for one in parameters if not one.get("optional") and "default" not in one}
    assert needed <= trigger["metadata"].keys() <= {one["name"] for one in parameters}


def test_checkov_finds_nothing_that_we_do_not_explain(tmp_path: Path) -> None:
    for name in NAMES:
        made = [as_builtin(one) for one in resources(name)]
        (tmp_path / f"{name.replace(' ', '-')}.yaml").write_text(yaml.safe_dump_all(made))
    program = ROOT / ".venv" / "checkov" / "bin" / "checkov"
    command = [str(program) if program.exists() else tool("checkov"), "--config-file", "deploy/checkov.yaml"]
    done = subprocess.run([*command, "-d", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_rules_and_dashboard_in_the_cluster_are_those_of_their_sources() -> None:
    done = subprocess.run(
        [sys.executable, "tools/manifests.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert of_kind("monitoring", "PrometheusRule")
