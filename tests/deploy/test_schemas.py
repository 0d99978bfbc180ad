"""Every overlay of deploy/k8s, and base with each component, is what Kubernetes and the operators take."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.manifests import COMBINATIONS, K8S, NAMES, ROOT, as_builtin, of_kind, resources, tool

KUBERNETES = "1.32"
CRDS = {
    "ScaledJob": "keda.sh_scaledjobs.yaml",
    "ServiceMonitor": "monitoring.coreos.com_servicemonitors.yaml",
    "PodMonitor": "monitoring.coreos.com_podmonitors.yaml",
    "PrometheusRule": "monitoring.coreos.com_prometheusrules.yaml",
}
UNCHECKED = {"ResourceFlavor", "ClusterQueue", "LocalQueue"}  # Kueue's: no schema at hand
rendering = pytest.mark.parametrize("name", NAMES)


def test_every_component_is_tried() -> None:
    components = {path.name for path in (K8S / "components").iterdir()}
    assert components == {one for combination in COMBINATIONS.values() for one in combination}


@rendering
def test_kubernetes_takes_every_resource_and_knows_every_field(name: str) -> None:
    for resource in map(as_builtin, resources(name)):
        if resource["kind"] not in CRDS.keys() | UNCHECKED:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)


@pytest.fixture(scope="module")
def crds() -> dict[str, Any]:
    """The schemas of the operators' kinds."""
    folder = os.environ.get("SIGHTLINE_SCHEMAS")
    if not folder:
        pytest.skip("SIGHTLINE_SCHEMAS names no folder with the schemas of KEDA and of the Prometheus operator")
    return {kind: _schema(Path(folder) / file) for kind, file in CRDS.items()}


def _schema(path: Path) -> dict[str, Any]:
    (version,) = [one for one in yaml.safe_load(path.read_text())["spec"]["versions"] if one["storage"]]
    return _closed(version["schema"]["openAPIV3Schema"])


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


@rendering
def test_the_operators_take_their_resources(name: str, crds: dict[str, Any]) -> None:
    for resource in resources(name):
        if resource["kind"] in CRDS:
            metadata = {"metadata": {}}  # the API server's own; the schema says only that it is an object
            jsonschema.Draft202012Validator(crds[resource["kind"]]).validate(resource | metadata)


def test_a_field_that_no_schema_knows_is_found(crds: dict[str, Any]) -> None:
    resource = {"spec": {"jobTargetRef": {"template": {}}, "triggers": [], "typo": 1}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(crds["ScaledJob"]).validate(resource)


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
