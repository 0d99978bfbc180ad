"""Every pod of deploy/k8s: confined, limited, probed, given time to drain, and with settings that exist."""

import re
from pathlib import Path

import pytest

from services.gateway.settings import GatewaySettings
from services.infra import http_calls, observe
from sightline.local.nats_users import ADMIN, USERS, authorization, password_variable
from tests.support.manifests import (
    APIS,
    CLUSTER_WIDE,
    GATEWAY,
    IDENTITY,
    NAMES,
    NAMESPACE,
    OPERATOR,
    OURS,
    ROOT,
    SERVERS,
    SHARED,
    WITH_STORE,
    containers,
    environment,
    of_kind,
    quantity,
    resources,
    template,
    text_of,
    title,
    variables,
    workloads,
)

KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text()
JOB = {"store-users", "accounts"}  # runs once, with the component of a store
rendering = pytest.mark.parametrize("name", NAMES)


@rendering
def test_every_container_is_confined_limited_and_probed(name: str) -> None:
    for what, pod, container in containers(name):
        context, pod_context = container["securityContext"], pod["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, what
        assert context["readOnlyRootFilesystem"] is True, what
        assert context["capabilities"] == {"drop": ["ALL"]}, what
        assert pod_context["runAsNonRoot"] is True, what
        assert name == "openshift" or pod_context["runAsUser"] >= 10000, what
        assert pod_context["seccompProfile"] == {"type": "RuntimeDefault"}, what
        assert pod["automountServiceAccountToken"] is (container["name"] == OPERATOR), what
        if container.get("restartPolicy") != "Always" and container["name"] not in JOB:  # these have no callers
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), what
        for bound in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][bound].keys(), what
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), what
        for volume in pod["volumes"]:
            allowed = {"name", "configMap", "emptyDir", "projected", "secret"}
            assert volume.keys() <= allowed, f"{what}: not `restricted`"
            assert not ("emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]), what


@rendering
def test_every_container_has_the_writable_folders_that_it_needs(name: str) -> None:
    for what, _, container in containers(name):
        written = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
        assert "/tmp" in written or container["name"] == "reloader", what
        if container["name"] == "trainer-worker":
            assert "/work" in written, what
        if container["name"] == "predictor":
            assert "/cache" in written, what


@rendering
def test_an_api_is_probed_by_its_health_and_hidden_from_callers_before_it_stops(name: str) -> None:
    served = [one for one in containers(name) if one[2]["name"] in APIS]
    assert len(served) == len(APIS)
    for what, _, container in served:
        port = int(environment(name, container["name"])["SIGHTLINE_PROBE_PORT"])
        assert container["readinessProbe"]["grpc"]["port"] == port, what
        assert "grpc" not in container["livenessProbe"], f"{what}: a pod that is NOT_SERVING must not be killed"
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5, what


@rendering
def test_the_gateway_is_probed_over_http_without_tls_and_hidden_from_callers_before_it_stops(name: str) -> None:
    (container,) = [one for _, _, one in containers(name) if one["name"] == GATEWAY]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports["probe"] == int(environment(name, GATEWAY)["SIGHTLINE_PROBE_PORT"])
    assert ports["http"] == GatewaySettings.model_fields["port"].default
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": http_calls.READY, "port": "probe"}
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


@rendering
def test_the_liveness_of_every_process_is_that_of_its_event_loop(name: str) -> None:
    asked = {
        container["name"]: container["livenessProbe"]["httpGet"]["path"]
        for _, _, container in containers(name)
        if container["name"] in OURS
    }
    assert asked == dict.fromkeys(OURS, observe.LIVE)


@rendering
def test_a_pod_has_time_to_drain_before_it_is_killed(name: str) -> None:
    for workload in workloads(name):
        pod_name, pod = workload["metadata"]["name"], template(workload)["spec"]
        grace = pod["terminationGracePeriodSeconds"]
        if pod_name in SERVERS:
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
        one["metadata"]["name"]: {p["name"] for p in template(one)["spec"]["containers"][0].get("ports", [])}
        for one in workloads(name)
    }
    selecting, services = of_kind(name, "Deployment", "StatefulSet"), of_kind(name, "Service")
    budgets = of_kind(name, "PodDisruptionBudget")
    assert selecting
    assert services
    assert budgets
    for workload in selecting:
        wanted = workload["spec"]["selector"]["matchLabels"].items()
        assert wanted <= template(workload)["metadata"]["labels"].items(), title(workload)
        spreads = template(workload)["spec"].get("topologySpreadConstraints", [])
        packed = workload["metadata"]["name"] in {"object-store", "trainer-worker"}  # one pod; GPU nodes are filled up
        assert spreads or packed, title(workload)
        for spread in spreads:
            assert spread["labelSelector"]["matchLabels"].items() == wanted, title(workload)
    for service in services:
        chosen = service["spec"]["selector"]
        assert sum(chosen.items() <= labels.items() for labels in pods) == 1, title(service)
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports[chosen["app.kubernetes.io/name"]]
    for budget in budgets:
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= one.items() for one in pods), title(budget)


@rendering
def test_every_workload_has_a_disruption_budget_unless_it_is_a_job(name: str) -> None:
    budgets = {one["metadata"]["name"] for one in of_kind(name, "PodDisruptionBudget")}
    assert budgets == {one["metadata"]["name"] for one in of_kind(name, "Deployment", "StatefulSet")}


GIB = 2**30
SMALL_DISK = 20 * GIB * 0.85  # the part of a node's disk that kubelet leaves to pods


@rendering
def test_resource_requests_match_the_use_and_fit_a_node(name: str) -> None:
    for what, pod, container in containers(name):
        asked, bounds = container["resources"]["requests"], container["resources"]["limits"]
        volumes = {one["name"]: one["emptyDir"] for one in pod["volumes"] if "emptyDir" in one}
        on_disk = sum(quantity(one["sizeLimit"]) for one in volumes.values() if one.get("medium") != "Memory")
        assert quantity(bounds["ephemeral-storage"]) >= on_disk, f"{what} is evicted before its volumes are full"
        assert quantity(asked["ephemeral-storage"]) <= SMALL_DISK / 2, f"{what} fits no node with a small disk"
        if name == "overlay local":
            continue  # on a laptop everything is requested small
        if container["name"] == "trainer-worker":
            assert asked["memory"] == bounds["memory"], "pods above their request are evicted first, with days of work"
        if container["name"] == "predictor":
            cache = int(environment(name, "predictor")["SIGHTLINE_MODEL_CACHE_BYTES"])
            assert quantity(asked["memory"]) >= cache + 1.5 * GIB, "torch and images in addition to the models"
            assert quantity(bounds["memory"]) >= 2 * cache
            assert quantity(volumes["cache"]["sizeLimit"]) >= 1.5 * cache, "a model is loaded while another is evicted"


@rendering
def test_services_are_headless_so_that_callers_spread_over_all_pods(name: str) -> None:
    services = {one["metadata"]["name"]: one["spec"].get("clusterIP") for one in of_kind(name, "Service")}
    services.pop("object-store", None)
    services.pop("seaweedfs", None)
    assert services.pop(GATEWAY) is None, "clients of HTTP do not spread their calls"
    assert services == dict.fromkeys(("dataset", "trainer", "predictor", "nats"), "None")


@rendering
def test_every_resource_has_the_recommended_labels_and_the_namespace(name: str) -> None:
    for resource in resources(name):
        assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "sightline", title(resource)
        if resource["kind"] not in CLUSTER_WIDE:
            served = {"blue", "green"} if resource["kind"] == "RoleBinding" and name == "chart everything" else set()
            assert resource["metadata"]["namespace"] in {NAMESPACE, *served}, title(resource)
        else:
            assert "namespace" not in resource["metadata"], title(resource)
    for workload in workloads(name):
        labels = template(workload)["metadata"]["labels"]
        assert {f"app.kubernetes.io/{one}" for one in ("name", "component", "part-of")} <= labels.keys()


@rendering
def test_every_secret_is_documented_and_every_config_map_exists(name: str) -> None:
    made = {one["metadata"]["name"] for one in of_kind(name, "ConfigMap")}
    text = text_of(name)
    secrets = set(re.findall(r"secretName: (\S+)", text)) | set(
        re.findall(r"secretKeyRef:\n +key: \S+\n +name: (\S+)", text)
    )
    assert secrets
    for secret in secrets:
        assert f"`{secret}`" in KUBERNETES, f"docs/kubernetes.md does not say how to create the secret {secret}"
    for workload in workloads(name):
        pod = template(workload)["spec"]
        used = {one["configMapRef"]["name"] for one in pod["containers"][0].get("envFrom", [])}
        used |= {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
        assert used <= made, title(workload)


@rendering
def test_secrets_are_files_except_for_the_stores_address_and_what_other_servers_take_from_variables(
    name: str,
) -> None:
    found = {
        (container["name"], variable["valueFrom"]["secretKeyRef"]["key"])
        for _, _, container in containers(name)
        for variable in container.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert {one for one in found if one[0] not in {"object-store", *JOB}} == {
        *((one, "endpoint") for one in WITH_STORE if name not in IDENTITY),
        *(("nats", user) for user in (*USERS, ADMIN)),
    }


@rendering
@pytest.mark.parametrize("pod_name", WITH_STORE)
def test_a_pod_has_its_own_user_of_nats_and_of_the_store_and_no_others_secrets(name: str, pod_name: str) -> None:
    (workload,) = [one for one in workloads(name) if one["metadata"]["name"] == pod_name]
    volumes = {
        one["secret"]["secretName"]: one["secret"] for one in template(workload)["spec"]["volumes"] if "secret" in one
    }
    wanted = {"sightline-nats": [pod_name], "sightline-s3": [f"{pod_name}-access-key", f"{pod_name}-secret-key"]}
    if name in IDENTITY:
        del wanted["sightline-s3"]
        assert template(workload)["spec"]["serviceAccountName"] == f"sightline-{pod_name}"
    mounted = {secret: [item["key"] for item in volumes[secret]["items"]] for secret in wanted}
    assert mounted == wanted
    assert ("sightline-s3" in volumes) == (name not in IDENTITY)
    assert environment(name, pod_name)["SIGHTLINE_NATS_USER"] == pod_name
    assert pod_name in USERS


@pytest.mark.parametrize("name", ["signing", "all", "overlay production"])
def test_only_trainer_workers_have_the_key_that_signs_and_whoever_loads_models_has_the_public_ones(name: str) -> None:
    mounted: dict[str, set[str]] = {}
    for what, pod, container in containers(name):
        if container["name"] not in OURS:
            continue
        of_keys = [one["secret"]["items"] for one in pod["volumes"] if "sightline-signing" in str(one)]
        mounted[container["name"]] = {item["key"] for items in of_keys for item in items}
        files = {key.rpartition("/")[2] for key in environment(name, container["name"]).values() if ".pem" in key}
        assert files == mounted[container["name"]], what
    public, both = {"bundle-key.pem"}, {"bundle-key.pem", "signing-key.pem"}
    readers = {"predictor": public, "predictor-worker": public, "trainer-worker": both}
    assert mounted == {key: set[str]() for key in OURS} | readers


@rendering
def test_nats_has_the_users_of_a_local_suite(name: str) -> None:
    (config,) = [one["data"] for one in of_kind(name, "ConfigMap") if "nats.conf" in one["data"]]
    included = {one for text in config.values() for one in re.findall(r'include "(.*)"', text)}
    assert included == config.keys() - {"nats.conf"}
    variables = {user: f"${password_variable(user)}" for user in (*USERS, ADMIN)}
    assert config["users.conf"].endswith(authorization(variables)), "run `make manifests`"
    (nats,) = [one for _, _, one in containers(name) if one["name"] == "nats"]
    passwords = {
        one["name"]: one["valueFrom"]["secretKeyRef"] for one in nats["env"] if one["name"].endswith("_PASSWORD")
    }
    assert passwords == {password_variable(user): {"name": "sightline-nats", "key": user} for user in (*USERS, ADMIN)}


@rendering
@pytest.mark.parametrize("pod_name", OURS)
def test_every_variable_is_a_setting_with_a_valid_value(
    name: str, pod_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless = name in IDENTITY or pod_name not in WITH_STORE
    values = environment(name, pod_name) | {"SIGHTLINE_S3_ENDPOINT": "store:443"}
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for variable, value in values.items():
        if variable.startswith("SIGHTLINE_"):
            assert variable in SHARED, variable
            is_set_file = variable.endswith("_FILE") and value
            monkeypatch.setenv(variable, str(secret) if is_set_file else value or ("" if keyless else "1"))
    (workload,) = [one for one in workloads(name) if one["metadata"]["name"] == pod_name]
    own = {one["name"] for one in template(workload)["spec"]["containers"][0]["env"]}
    assert own - {"AWS_WEB_IDENTITY_TOKEN_FILE"} <= variables(OURS[pod_name])
    settings = OURS[pod_name]()
    assert settings.s3_endpoint == "store:443"
    assert settings.s3_secret_key.get_secret_value() == ("" if keyless else "secret")


@rendering
@pytest.mark.parametrize("pod_name", OURS)
def test_every_file_that_a_setting_names_is_mounted(name: str, pod_name: str) -> None:
    (workload,) = [one for one in workloads(name) if one["metadata"]["name"] == pod_name]
    mounts = [one["mountPath"] for one in template(workload)["spec"]["containers"][0]["volumeMounts"]]
    files = {variable: value for variable, value in environment(name, pod_name).items() if value.startswith("/etc/")}
    if pod_name not in SERVERS:
        files.pop("SIGHTLINE_AUTH_KEYS", None)
    assert files or pod_name == GATEWAY
    for variable, value in files.items():
        assert any(value.startswith(f"{mount}/") for mount in mounts), f"{variable}={value}"
