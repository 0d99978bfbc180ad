"""What each component of deploy/k8s adds, and what each overlay relies on."""

import ipaddress
from collections.abc import Iterator

import pytest

from services.infra.jetstream_queue import STREAM
from services.trainer.reconcile import jobs
from tests.support.manifests import (
    NAMES,
    NAMESPACE,
    OVERLAYS,
    SERVERS,
    Resource,
    combined_text,
    environment,
    of_kind,
    quantity,
    template,
    title,
    workloads,
)

LONGEST_TRAINING_SECONDS = 288 * 3600
# Where clouds hand out a node's credentials: AWS (also ECS and EKS), Azure, GCP, Alibaba, Oracle, OpenStack.
METADATA = (
    *("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe"),
)
rendering = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_secured_or_explicitly_insecure(overlay: str) -> None:
    for pod_name in SERVERS:
        values = environment(f"overlay {overlay}", pod_name)
        secured = "SIGHTLINE_TLS_CERTIFICATE" in values and "SIGHTLINE_AUTH_KEYS" in values
        assert secured != (values.get("SIGHTLINE_INSECURE") == "true")
        assert overlay == "local" or secured


@rendering
def test_nats_flushes_every_write_and_replicates_each_stream_to_all_servers(name: str) -> None:
    (nats,) = [one for one in of_kind(name, "StatefulSet") if one["metadata"]["name"] == "nats"]
    (files,) = [one["data"] for one in of_kind(name, "ConfigMap") if "nats.conf" in one["data"]]
    config = "".join(files.values())
    version = template(nats)["spec"]["containers"][0]["image"].partition(":")[2]
    assert [int(part) for part in version.split("-")[0].split(".")[:2]] >= [2, 10]
    assert "sync_interval: always" in config
    values = environment(name, "trainer-api")
    servers = nats["spec"]["replicas"]
    assert int(values["SIGHTLINE_NATS_REPLICAS"]) == servers
    assert len(values["SIGHTLINE_NATS_URL"].split(",")) == servers
    assert config.count(':6222"') == (servers + 1 if servers > 1 else 0)
    spread = {one["topologyKey"]: one for one in template(nats)["spec"]["topologySpreadConstraints"]}
    by_node = spread["kubernetes.io/hostname"]
    assert (by_node["whenUnsatisfiable"], by_node["maxSkew"]) == ("DoNotSchedule", 1)
    assert by_node["minDomains"] >= servers, "fewer nodes would hold two of them"


@pytest.mark.parametrize("name", ["autoscaling", "kueue", "all", "overlay production"])
def test_each_training_has_its_own_pod_which_nothing_evicts(name: str) -> None:
    (scaled,) = of_kind(name, "ScaledJob")
    job, spec = scaled["spec"]["jobTargetRef"], scaled["spec"]
    assert job.get("activeDeadlineSeconds", LONGEST_TRAINING_SECONDS) >= LONGEST_TRAINING_SECONDS
    assert (job["backoffLimit"], job["parallelism"], job["completions"]) == (0, 1, 1)
    assert spec["rollout"]["strategy"] == "gradual"
    assert "scalingStrategy" not in spec, "KEDA's default subtracts running jobs; some versions refuse its name"
    disruption = {"type": "DisruptionTarget", "status": "True"}
    assert job["podFailurePolicy"] == {"rules": [{"action": "Ignore", "onPodConditions": [disruption]}]}
    trigger = spec["triggers"][0]["metadata"]
    assert (trigger["stream"], trigger["consumer"], trigger["lagThreshold"]) == (STREAM, jobs.KIND, "1")
    (nats,) = [one for one in of_kind(name, "Service") if one["metadata"]["name"] == "nats"]
    monitor = {port["name"]: port["port"] for port in nats["spec"]["ports"]}["monitor"]
    assert trigger["natsServerMonitoringEndpoint"] == f"nats.{NAMESPACE}.svc.cluster.local:{monitor}"
    assert job["template"]["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["containers"][0]["args"] == ["worker", "--once"]
    assert "trainer-worker" not in {one["metadata"]["name"] for one in of_kind(name, "Deployment")}
    replicas = {one["metadata"]["name"]: one["spec"].get("replicas") for one in of_kind(name, "Deployment")}
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(name, "HorizontalPodAutoscaler")}
    assert scaled == {"predictor", "predictor-worker", "dataset-worker", "gateway"}
    assert {replicas[one] for one in scaled} == {None}


@pytest.mark.parametrize(
    "order", [("autoscaling", "gpu"), ("autoscaling", "tls"), ("kueue", "autoscaling"), ("kueue",)]
)
def test_components_in_an_order_that_would_drop_a_patch_are_refused(order: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError, match="no resource matches"):
        combined_text(*order)


@pytest.mark.parametrize("name", ["kueue", "all"])
def test_the_queue_has_a_quota_for_every_resource_that_a_job_requests(name: str) -> None:
    (scaled,), (queue,) = of_kind(name, "ScaledJob"), of_kind(name, "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    wanted: Resource = template(scaled)["spec"]["containers"][0]["resources"]
    assert wanted["requests"].keys() | wanted["limits"].keys() <= set(group["coveredResources"])
    quotas = {one["name"]: quantity(one["nominalQuota"]) for one in group["flavors"][0]["resources"]}
    assert list(quotas) == group["coveredResources"]
    for resource, amount in (wanted["limits"] | wanted["requests"]).items():
        assert quotas[resource] >= scaled["spec"]["maxReplicaCount"] * quantity(amount), resource


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
    assert "nodeSelector" not in pod, "an autoscaled pool has no labelled node yet"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "topologySpreadConstraints" not in pod
    (packed,) = pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    together = {"app.kubernetes.io/name": "trainer-worker"}
    assert packed["podAffinityTerm"]["labelSelector"]["matchLabels"] == together
    assert packed["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert environment(name, "trainer-worker")["SIGHTLINE_DEVICE"] == "cuda"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in pod["volumes"]


@pytest.mark.parametrize("name", ["network-policies", "all", "overlay production"])
def test_the_network_is_closed_and_no_pod_reaches_the_clouds_metadata_service(name: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(name, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    rules = [rule for one in policies.values() for rule in one.get("egress", [])]
    open_to_blocks = [rule for rule in rules if any("ipBlock" in to for to in rule["to"])]
    assert open_to_blocks
    for rule in open_to_blocks:
        for address in METADATA:
            assert not _reaches(rule, address) or {port["port"] for port in rule["ports"]} == {53}, address
    for spec in policies.values():
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            assert rule.get("ports"), "a rule without ports opens all ports"


@pytest.mark.parametrize("name", ["dataset-api", "trainer-api", "predictor", "gateway"])
def test_every_server_reaches_the_issuer_of_tokens(name: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind("network-policies", "NetworkPolicy")}
    (wanted,) = policies["token-issuer"]["podSelector"]["matchExpressions"]
    assert name in wanted["values"]
    (rule,) = policies["token-issuer"]["egress"]
    assert _reaches(rule, "203.0.113.7")
    assert rule["ports"] == [{"port": 443, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("where", "port"),
    [
        ({"kubernetes.io/metadata.name": "kube-system"}, 53),
        ({"kubernetes.io/metadata.name": "openshift-dns"}, 5353),
        ("169.254.20.10", 53),
        ("169.254.169.254", 53),
    ],
    ids=["kube-dns", "OpenShift", "NodeLocal DNSCache", "Cloud DNS"],
)
def test_every_pod_may_resolve_names(where: dict[str, str] | str, port: int) -> None:
    (names,) = [one for one in of_kind("all", "NetworkPolicy") if one["metadata"]["name"] == "names"]
    assert names["spec"]["podSelector"] == {}
    ways = [
        {(one["port"], one["protocol"]) for one in rule["ports"]}
        for rule in names["spec"]["egress"]
        if _reaches(rule, where)
    ]
    assert {(port, "UDP"), (port, "TCP")} <= set().union(*ways)


def _reaches(rule: Resource, where: dict[str, str] | str) -> bool:
    """Whether an egress rule leads to the namespace with these labels, or to the address."""
    if isinstance(where, dict):
        return any(to.get("namespaceSelector") == {"matchLabels": where} and len(to) == 1 for to in rule["to"])
    address = ipaddress.ip_address(where)
    blocks = [to["ipBlock"] for to in rule["to"] if "ipBlock" in to]
    return any(
        address in ipaddress.ip_network(block["cidr"])
        and not any(address in ipaddress.ip_network(one) for one in block.get("except", []))
        for block in blocks
    )


def test_network_policies_and_monitors_name_pods_and_ports_that_exist() -> None:
    pods = [template(one) for one in workloads("all")]
    labels = [one["metadata"]["labels"] for one in pods]
    names = {one["app.kubernetes.io/name"] for one in labels}
    ports = {str(p["containerPort"]) for pod in pods for p in pod["spec"]["containers"][0].get("ports", [])}
    policies = of_kind("all", "NetworkPolicy")
    assert any(policy["spec"].get("ingress") for policy in policies)
    for policy in policies:
        selectors = list(_selectors(policy["spec"]))
        for selector in selectors:
            chosen = {*selector.get("matchLabels", {}).values()}
            chosen |= {value for one in selector.get("matchExpressions", []) for value in one["values"]}
            assert chosen <= names, title(policy)
        for rule in [*policy["spec"].get("ingress", [])]:
            assert {str(one["port"]) for one in rule["ports"]} <= ports, title(policy)
    (of_pods,), (of_services,) = of_kind("all", "PodMonitor"), of_kind("all", "ServiceMonitor")
    wanted = of_pods["spec"]["selector"]["matchLabels"].items()
    workers = {one["app.kubernetes.io/name"] for one in labels if wanted <= one.items()}
    assert workers == {"dataset-worker", "trainer-worker", "predictor-worker", "operator"}
    wanted = of_services["spec"]["selector"]["matchLabels"].items()
    found = [one for one in of_kind("all", "Service") if wanted <= one["metadata"]["labels"].items()]
    assert {one["metadata"]["name"] for one in found} == {"dataset", "trainer", "predictor", "gateway"}
    assert all("metrics" in {port["name"] for port in one["spec"]["ports"]} for one in found)


def _selectors(spec: Resource) -> Iterator[Resource]:
    yield spec["podSelector"]
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        for peer in [*rule.get("from", []), *rule.get("to", [])]:
            if "podSelector" in peer:
                yield peer["podSelector"]


@pytest.mark.parametrize("name", ["tls", "all", "overlay cpu", "overlay gpu", "overlay production"])
def test_the_certificate_reloader_of_nats_sees_the_certificates_and_the_server(name: str) -> None:
    (nats,) = [one for one in of_kind(name, "StatefulSet") if one["metadata"]["name"] == "nats"]
    pod = template(nats)["spec"]
    (server,), (reloader,) = pod["containers"], pod["initContainers"]
    assert reloader["restartPolicy"] == "Always", "it must be a sidecar"
    assert reloader["image"] == server["image"]
    assert pod["shareProcessNamespace"] is True
    assert "runAsUser" not in reloader["securityContext"], "a different user may not send the signal"
    mounts = {mount["mountPath"]: mount for mount in reloader["volumeMounts"]}
    assert set(mounts) == {"/tmp", "/etc/nats-tls"}
    assert all(mount["readOnly"] for mount in mounts.values())
    assert all(mounts.get(mount["mountPath"], mount)["name"] == mount["name"] for mount in server["volumeMounts"])
    assert not any("subPath" in mount for mount in mounts.values()), "files mounted by subPath are never updated"
