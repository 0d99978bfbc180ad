"""Every overlay of deploy/k8s, and base with each component, is what a cluster takes and what we promise of it."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from services.dataset.settings import DatasetSettings
from services.kit.settings import Settings
from services.predictor.settings import PredictorSettings
from services.trainer.settings import TrainerSettings
from tests.support.manifests import (
    COMBINATIONS,
    K8S,
    NAMES,
    OVERLAYS,
    ROOT,
    Resource,
    as_builtin,
    containers,
    environment,
    of_kind,
    resources,
    template,
    text_of,
    title,
    tool,
    workloads,
)

KUBERNETES = "1.32"
CRDS = {
    "ScaledJob": "keda.sh_scaledjobs.yaml",
    "ServiceMonitor": "monitoring.coreos.com_servicemonitors.yaml",
    "PodMonitor": "monitoring.coreos.com_podmonitors.yaml",
    "PrometheusRule": "monitoring.coreos.com_prometheusrules.yaml",
}
UNCHECKED = {"ResourceFlavor", "ClusterQueue", "LocalQueue"}  # Kueue's: no schema at hand
APIS = {"dataset-api", "trainer-api", "predictor"}
OURS = {
    "dataset-api": DatasetSettings,
    "dataset-worker": DatasetSettings,
    "trainer-api": TrainerSettings,
    "trainer-worker": TrainerSettings,
    "predictor": PredictorSettings,
}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
LONGEST_TRAINING_SECONDS = 288 * 3600
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


@rendering
def test_every_container_is_confined_limited_and_probed(name: str) -> None:
    for what, pod, container in containers(name):
        context, pod_context = container["securityContext"], pod["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, what
        assert context["readOnlyRootFilesystem"] is True, what
        assert context["capabilities"] == {"drop": ["ALL"]}, what
        assert pod_context["runAsNonRoot"] is True, what
        assert pod_context["runAsUser"] >= 10000, what
        assert pod_context["seccompProfile"] == {"type": "RuntimeDefault"}, what
        assert pod["automountServiceAccountToken"] is False, what
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), what
        for bound in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][bound].keys(), what
        for volume in pod["volumes"]:
            assert not ("emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]), what


@rendering
def test_what_writes_has_a_place_for_it(name: str) -> None:
    for what, _, container in containers(name):
        written = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
        assert "/tmp" in written, what
        if container["name"] == "trainer-worker":
            assert "/work" in written, what
        if container["name"] == "predictor":
            assert "/cache" in written, what


@rendering
def test_a_service_is_probed_by_its_health_and_hidden_from_callers_before_it_ends(name: str) -> None:
    for what, _, container in containers(name):
        if container["name"] in APIS:
            port = int(environment(name, container["name"])["SIGHTLINE_PROBE_PORT"])
            assert container["readinessProbe"]["grpc"]["port"] == port, what
            assert "grpc" not in container["livenessProbe"], f"{what}: NOT_SERVING is no reason to be killed"
            assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5, what


@rendering
def test_a_pod_has_time_to_drain_before_it_is_killed(name: str) -> None:
    for workload in workloads(name):
        pod_name, pod = workload["metadata"]["name"], template(workload)["spec"]
        grace = pod["terminationGracePeriodSeconds"]
        if pod_name in APIS:
            values = environment(name, pod_name)
            before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            needed = before + float(values["SIGHTLINE_DRAIN_SECONDS"]) + float(values["SIGHTLINE_GRACE_SECONDS"]) + 5
            assert grace >= needed, title(workload)
        else:
            assert grace >= (75 if pod_name == "trainer-worker" else 45), title(workload)


@rendering
def test_selectors_find_pods_and_ports(name: str) -> None:
    pods = [template(one)["metadata"]["labels"] for one in workloads(name)]
    ports = {
        one["metadata"]["name"]: {p["name"] for p in template(one)["spec"]["containers"][0]["ports"]}
        for one in workloads(name)
    }
    for workload in of_kind(name, "Deployment", "StatefulSet"):
        wanted = workload["spec"]["selector"]["matchLabels"].items()
        assert wanted <= template(workload)["metadata"]["labels"].items(), title(workload)
        for spread in template(workload)["spec"].get("topologySpreadConstraints", []):
            assert spread["labelSelector"]["matchLabels"].items() == wanted, title(workload)
    for service in of_kind(name, "Service"):
        chosen = service["spec"]["selector"]
        assert sum(chosen.items() <= labels.items() for labels in pods) == 1, title(service)
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports[chosen["app.kubernetes.io/name"]]
    for budget in of_kind(name, "PodDisruptionBudget"):
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= one.items() for one in pods), title(budget)


@rendering
def test_every_workload_has_a_disruption_budget_unless_it_is_a_job(name: str) -> None:
    budgets = {one["metadata"]["name"] for one in of_kind(name, "PodDisruptionBudget")}
    assert budgets == {one["metadata"]["name"] for one in of_kind(name, "Deployment", "StatefulSet")}


@rendering
def test_network_policies_and_monitors_select_pods_that_exist_here_or_in_a_component(name: str) -> None:
    known = {one["metadata"]["name"] for one in workloads(name)} | {"object-store"}
    for policy in of_kind(name, "NetworkPolicy"):
        for word in re.findall(r"app.kubernetes.io/name', '(?:operator': 'In', 'values': )?.*?\[(.*?)\]", str(policy)):
            assert {one.strip("' ") for one in word.split(",")} <= known, title(policy)


@rendering
def test_services_are_headless_so_that_callers_spread_over_all_pods(name: str) -> None:
    for service in of_kind(name, "Service"):
        if service["metadata"]["name"] != "object-store":
            assert service["spec"]["clusterIP"] == "None", title(service)


@rendering
def test_every_resource_carries_the_recommended_labels_and_lives_in_the_namespace(name: str) -> None:
    for resource in resources(name):
        assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "sightline", title(resource)
        if resource["kind"] not in {"Namespace", "ResourceFlavor", "ClusterQueue"}:
            assert resource["metadata"]["namespace"] == "sightline", title(resource)
        else:
            assert "namespace" not in resource["metadata"], title(resource)
    for workload in workloads(name):
        labels = template(workload)["metadata"]["labels"]
        assert {f"app.kubernetes.io/{one}" for one in ("name", "component", "part-of")} <= labels.keys()


@rendering
def test_every_secret_is_documented_and_every_config_map_made(name: str) -> None:
    made = {one["metadata"]["name"] for one in of_kind(name, "ConfigMap")}
    text = text_of(name)
    secrets = set(re.findall(r"secretName: (\S+)", text)) | set(re.findall(r"secretKeyRef:\n +key: \S+\n +name: (\S+)", text))
    assert secrets
    for secret in secrets:
        assert f"`{secret}`" in OPERATIONS, f"docs/operations.md does not say how to make the secret {secret}"
    for workload in workloads(name):
        pod = template(workload)["spec"]
        used = {one["configMapRef"]["name"] for one in pod["containers"][0].get("envFrom", [])}
        used |= {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
        assert used <= made, title(workload)


@rendering
def test_secrets_come_as_files_except_the_address_of_the_store_and_the_keys_of_the_stores_own_program(name: str) -> None:
    for what, _, container in containers(name):
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                key = variable["valueFrom"]["secretKeyRef"]["key"]
                assert key == "endpoint" or container["name"] == "object-store", what


@rendering
@pytest.mark.parametrize("pod_name", OURS)
def test_every_variable_is_a_setting_with_a_value_that_it_takes(
    name: str, pod_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = environment(name, pod_name) | {"SIGHTLINE_S3_ENDPOINT": "store:443"}
    known: set[str] = set()
    for settings in (Settings, *OURS.values()):
        known |= {f"SIGHTLINE_{field.upper()}" for field in settings.model_fields}
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for variable, value in values.items():
        if variable.startswith("SIGHTLINE_"):
            assert variable.removesuffix("_FILE") in known or variable in known, variable
            monkeypatch.setenv(variable, str(secret) if variable.endswith("_FILE") else value or "1")
    settings = OURS[pod_name]()
    assert settings.s3_endpoint == "store:443"
    assert settings.s3_secret_key.get_secret_value() == "secret"


@rendering
@pytest.mark.parametrize("pod_name", OURS)
def test_every_file_that_a_setting_names_is_mounted(name: str, pod_name: str) -> None:
    (workload,) = [one for one in workloads(name) if one["metadata"]["name"] == pod_name]
    mounts = [one["mountPath"] for one in template(workload)["spec"]["containers"][0]["volumeMounts"]]
    for variable, value in environment(name, pod_name).items():
        if value.startswith("/etc/") and not (variable == "SIGHTLINE_AUTH_KEYS" and pod_name not in APIS):
            assert any(value.startswith(f"{mount}/") for mount in mounts), f"{variable}={value}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_guarded_or_says_that_it_is_not(overlay: str) -> None:
    for pod_name in APIS:
        values = environment(f"overlay {overlay}", pod_name)
        guarded = "SIGHTLINE_TLS_CERTIFICATE" in values and "SIGHTLINE_AUTH_KEYS" in values
        assert guarded != (values.get("SIGHTLINE_INSECURE") == "true")
        assert overlay == "local" or guarded


@rendering
def test_nats_writes_through_to_the_disk_and_keeps_each_stream_on_as_many_servers_as_it_has(name: str) -> None:
    (nats,) = [one for one in of_kind(name, "StatefulSet") if one["metadata"]["name"] == "nats"]
    (config,) = [one["data"]["nats.conf"] for one in of_kind(name, "ConfigMap") if "nats.conf" in one["data"]]
    version = template(nats)["spec"]["containers"][0]["image"].partition(":")[2]
    assert [int(part) for part in version.split("-")[0].split(".")[:2]] >= [2, 10]
    assert "sync_interval: always" in config
    values = environment(name, "trainer-api")
    servers = nats["spec"]["replicas"]
    assert int(values["SIGHTLINE_NATS_REPLICAS"]) == servers
    assert len(values["SIGHTLINE_NATS_URL"].split(",")) == servers
    assert config.count(":6222\"") == (servers + 1 if servers > 1 else 0)


@pytest.mark.parametrize("name", ["autoscaling", "kueue", "all", "overlay production"])
def test_a_training_has_a_pod_of_its_own_that_nothing_but_its_end_stops(name: str) -> None:
    (scaled,) = of_kind(name, "ScaledJob")
    job, spec = scaled["spec"]["jobTargetRef"], scaled["spec"]
    assert job.get("activeDeadlineSeconds", LONGEST_TRAINING_SECONDS) >= LONGEST_TRAINING_SECONDS
    assert (job["backoffLimit"], job["parallelism"], job["completions"]) == (0, 1, 1)
    assert spec["rollout"]["strategy"] == "gradual"
    assert spec["scalingStrategy"]["strategy"] == "default"
    assert spec["triggers"][0]["metadata"] | {"lagThreshold": "1", "stream": "SIGHTLINE_JOBS", "consumer": "trainer"} == (
        spec["triggers"][0]["metadata"]
    )
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["containers"][0]["args"] == ["worker", "--once"]
    assert "trainer-worker" not in {one["metadata"]["name"] for one in of_kind(name, "Deployment")}
    replicas = {one["metadata"]["name"]: one["spec"].get("replicas") for one in of_kind(name, "Deployment")}
    assert replicas["predictor"] is replicas["dataset-worker"] is None


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("overlay gpu", "nvidia.com/gpu"),
        ("overlay production", "nvidia.com/gpu"),
        ("gpu-mig", "nvidia.com/mig-1g.10gb"),
        ("all", "nvidia.com/mig-1g.10gb"),
    ],
)
def test_a_worker_on_a_gpu_has_one_device_and_shared_memory(name: str, device: str) -> None:
    (worker,) = [one for one in workloads(name) if one["metadata"]["name"] == "trainer-worker"]
    pod = template(worker)["spec"]
    limits: Resource = pod["containers"][0]["resources"]["limits"]
    assert {key: value for key, value in limits.items() if key.startswith("nvidia.com")} == {device: 1}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in pod["volumes"]


@pytest.mark.parametrize("name", ["network-policies", "all", "overlay production"])
def test_the_network_is_closed_and_no_pod_reaches_the_clouds_metadata(name: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(name, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    blocks = [to["ipBlock"] for one in policies.values() for rule in one.get("egress", []) for to in rule["to"] if "ipBlock" in to]
    assert blocks
    for block in blocks:
        text = " ".join(block.get("except", []))
        assert "169.254.0.0/16" in text if "." in block["cidr"] else "fd00:ec2::/32" in text
    for spec in policies.values():
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            assert rule.get("ports"), "a rule without ports opens them all"


def test_rules_and_dashboard_in_the_cluster_are_those_of_their_sources() -> None:
    done = subprocess.run(["python3", "tools/manifests.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert of_kind("monitoring", "PrometheusRule")
