"""The Helm charts: Helm renders from them what kustomize renders from deploy/k8s, and refuses values that are none."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import helm
from tests.support.manifests import (
    CHART,
    COMBINATIONS,
    K8S,
    OVERLAYS,
    ROOT,
    Resource,
    chart_text,
    chart_values,
    combined_text,
    of_kind,
    render_text,
    template,
    text_of,
    title,
    workloads,
)

CLUSTER_CHART = CHART.with_name("sightline-cluster")
WORKLOADS = ("datasetApi", "datasetWorker", "trainerApi", "trainerWorker", "predictor", "predictorWorker", "gateway")
STORE = ("objectStore", "storeUsers")  # of the kind versitygw
SERVING = ("datasetApi", "trainerApi", "predictor", "gateway", "nats", *STORE)
# The values that stand for a component.
VALUES: dict[str, Resource] = {
    "autoscaling": {"autoscaling": {"enabled": True}},
    "certificates": {"tls": {"certManager": True}},
    "gpu": {"gpu": {"enabled": True}},
    "gpu-mig": {"gpu": {"enabled": True, "mig": "1g.10gb"}},
    "gpu-runtime-class": {"gpu": {"runtimeClassName": "nvidia"}},
    "kueue": {"kueue": {"enabled": True}},
    "monitoring": {"monitoring": {"enabled": True}},
    "nats-single": {"nats": {"replicas": 1}},
    "network-policies": {"networkPolicies": {"enabled": True}},
    "openshift": {"openshift": True},
    "operator": {"operator": {"enabled": True}},
    "pod-identity": {},  # network policies and the identity together
    "predictor-torch": {"predictor": {"torch": True}},
    "priorities": {
        one: {"priorityClassName": "sightline-serving" if one in SERVING else "sightline-work"}
        for one in (*WORKLOADS, "nats", *STORE)
    },
    "pull-secret": {"images": {"pullSecrets": ["registry"]}},
    "signing": {"signing": {"enabled": True}},
    **{f"store-{kind}": {"store": {"kind": kind}} for kind in ("users", "seaweedfs", "versitygw")},
    "tls": {},
    "web-identity": {"s3": {"identity": "web"}},
    "workload-identity": {"s3": {"identity": "eks", "endpoint": "s3.amazonaws.com"}},
}
ONCE = {"trainerWorker": {"replicas": 1}}  # as in base


def merged(*values: Resource) -> Resource:
    made: Resource = {}
    for one in values:
        for key, value in one.items():
            old = made.get(key)
            made[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return made


def comparable(text: str) -> dict[str, Any]:
    """The resources by kind and name, without what names the tool, and with named items in one order."""
    text = re.sub(r"\b(sightline-settings|nats-config|seaweedfs|store-users)-[a-z0-9]{10}\b", r"\1", text)
    found: dict[str, Any] = {}
    for resource in yaml.load_all(text, yaml.CSafeLoader):
        if resource["kind"] in {"Deployment", "StatefulSet", "ScaledJob", "Job"}:
            template(resource)["metadata"].setdefault("annotations", {})
        if resource["kind"] == "Job":
            resource["spec"].pop("ttlSecondsAfterFinished", None)  # Helm waits for a job that is gone
        found[title(resource)] = _plain(resource)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        own = re.compile(r"helm\.sh/chart|app\.kubernetes\.io/(instance|managed-by)|checksum/.*")
        return {key: _plain(one) for key, one in value.items() if not own.fullmatch(key)}
    if isinstance(value, list):
        items = [_plain(one) for one in value]
        named = all(isinstance(one, dict) and "name" in one for one in items)
        return sorted(items, key=lambda one: (one["name"], str(one))) if named else items
    return value


def assert_same(chart: str, kustomize: str) -> None:
    ours, theirs = comparable(chart), comparable(kustomize)
    assert ours.keys() == theirs.keys()
    for name, resource in ours.items():
        assert resource == theirs[name], name


@pytest.mark.parametrize(("name", "overlay"), [("default", "cpu"), ("local", "local"), ("production", "production")])
def test_the_charts_files_of_values_give_what_the_overlays_give(name: str, overlay: str) -> None:
    assert_same(text_of(f"chart {name}"), text_of(f"overlay {overlay}"))


def test_a_value_gives_what_the_overlay_gpu_gives() -> None:
    assert_same(chart_text(VALUES["gpu"]), text_of("overlay gpu"))
    assert len(OVERLAYS) == 4


@pytest.mark.parametrize("name", COMBINATIONS)
def test_values_give_what_components_give(name: str) -> None:
    components = COMBINATIONS[name]
    values = merged(ONCE, *(VALUES[one] for one in components))
    first = [one for one in components if one == "operator" or one.startswith("store-")]
    order = [*first, "tls"]
    order += [one for one in components if one not in order]
    assert_same(chart_text(values), combined_text(*order))


def test_without_tls_a_suite_is_the_base_and_says_that_it_is_insecure() -> None:
    made = comparable(chart_text(merged(ONCE, {"tls": {"enabled": False}, "settings": {"SIGHTLINE_INSECURE": "true"}})))
    assert made["ConfigMap/sightline-settings"]["data"].pop("SIGHTLINE_INSECURE") == "true"
    base = comparable(combined_text())
    assert made == base


def test_every_value_that_takes_one_arrives() -> None:
    text = text_of("chart everything")
    assert "registry.example/acme/sightline-dataset@sha256:abab" in text
    assert "registry.example/sightline-gateway:0.1.0" in text
    (worker,) = [one for one in workloads("chart everything") if one["metadata"]["name"] == "trainer-worker"]
    pod = template(worker)["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert [one["key"] for one in pod["tolerations"]] == ["pool", "nvidia.com/gpu"]
    assert (pod["runtimeClassName"], pod["priorityClassName"]) == ("nvidia", "sightline-work")
    assert [one["name"] for one in pod["imagePullSecrets"]] == ["registry", "other"]
    assert worker["spec"]["minReplicaCount"] == 1
    accounts = {one["metadata"]["name"]: one["metadata"] for one in of_kind("chart everything", "ServiceAccount")}
    role = "arn:aws:iam::111122223333:role/sightline-dataset-api"
    assert accounts["sightline-dataset-api"]["annotations"] == {"eks.amazonaws.com/role-arn": role}
    assert "annotations" not in accounts["sightline-predictor"]
    (nats,) = of_kind("chart everything", "StatefulSet")
    assert nats["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    bindings = {one["metadata"]["namespace"] for one in of_kind("chart everything", "RoleBinding")}
    assert bindings == {"sightline", "blue", "green"}
    (settings,) = [one["data"] for one in of_kind("chart everything", "ConfigMap") if "SIGHTLINE_HOST" in one["data"]]
    assert (settings["SIGHTLINE_GRACE_SECONDS"], settings["SIGHTLINE_S3_REGION"]) == ("25", "eu-central-1")
    assert all(
        one["metadata"]["labels"]["release"] == "prometheus" for one in of_kind("chart everything", "PodMonitor")
    )


def test_outside_eks_a_role_is_a_variable() -> None:
    roles = {"identity": "web", "endpoint": "s3.amazonaws.com", "roles": {"predictor": "arn:aws:iam::1:role/p"}}
    found = {title(one): one for one in yaml.safe_load_all(chart_text({"s3": roles}))}
    env = {
        one["name"]: one.get("value") for one in template(found["Deployment/predictor"])["spec"]["containers"][0]["env"]
    }
    assert env["AWS_ROLE_ARN"] == "arn:aws:iam::1:role/p"
    assert "arn:aws" not in str(found["ServiceAccount/sightline-predictor"])


def test_the_documented_values_are_valid() -> None:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("kubernetes.md", "access.md"))
    blocks = [yaml.safe_load(one) for one in re.findall(r"```yaml\n((?:images|s3):.*?)```", pages, re.DOTALL)]
    assert len(blocks) == 2
    for values in blocks:
        assert comparable(chart_text(values))


def test_pods_restart_when_a_setting_of_theirs_changes() -> None:
    def checksums(**settings: str) -> dict[str, Any]:
        found = yaml.safe_load_all(chart_text({"settings": settings}))
        pods = [one for one in found if one["kind"] in {"Deployment", "StatefulSet"}]
        return {one["metadata"]["name"]: template(one)["metadata"]["annotations"] for one in pods}

    one, other = checksums(), checksums(SIGHTLINE_LOG_LEVEL="DEBUG")
    assert {name for name in one if one[name] != other[name]} == one.keys() - {"nats"}


def test_each_revision_has_a_job_of_its_own_that_stays_because_helm_waits_for_it() -> None:
    def job(revision: int = 1, **values: Resource) -> str:
        made = helm.render(
            CHART, merged({"store": {"kind": "seaweedfs"}}, values), namespace="suite", revision=revision
        )
        (found,) = [yaml.safe_load(text) for name, text in made.items() if name.endswith("/store-users.yaml")]
        assert "ttlSecondsAfterFinished" not in found["spec"]
        return found["metadata"]["name"]

    again, another = job(), job(storeUsers={"nodeSelector": {"pool": "cpu"}})
    setting = job(settings={"SIGHTLINE_OPEN_PREFIXES": "shared/"})
    assert again == job(), "or what `helm template` gives would always differ"
    assert len({again, another, setting, job(revision=2)}) == 4


@pytest.mark.parametrize(("replicas", "masters", "copies"), [(1, 1, "000"), (3, 3, "001")])
def test_seaweedfs_has_three_masters_and_two_copies_unless_it_is_one_server(
    replicas: int, masters: int, copies: str
) -> None:
    made = comparable(chart_text({"store": {"kind": "seaweedfs"}, "seaweedfs": {"replicas": replicas}}))
    config = made["ConfigMap/seaweedfs"]["data"]
    assert (len(config["MASTERS"].split(",")), config["REPLICATION"]) == (masters, copies)
    assert made["StatefulSet/seaweedfs"]["spec"]["replicas"] == replicas


@pytest.mark.parametrize(("kind", "size"), [("seaweedfs", "10Gi"), ("versitygw", "100Gi")])
def test_the_volume_of_the_store_has_a_size_for_what_it_keeps_unless_a_value_says_another(kind: str, size: str) -> None:
    def sizes(**values: Resource) -> list[str]:
        pod = comparable(chart_text({"store": {"kind": kind}, **values}))["StatefulSet/object-store"]
        claims = pod["spec"]["volumeClaimTemplates"]
        assert {one["spec"].get("storageClassName") for one in claims} == {"fast" if values else None}
        return [one["spec"]["resources"]["requests"]["storage"] for one in claims if one["metadata"]["name"] == "data"]

    assert sizes() == [size]
    assert sizes(objectStore={"storage": "1Ti", "storageClassName": "fast"}) == ["1Ti"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"natz": {}}, "'natz' not allowed"),
        ({"nats": {"replica": 1}}, "'replica' not allowed"),
        ({"nats": {"replicas": 2}}, "at '/nats/replicas'"),
        ({"predictor": {"resources": {"limits": {"memory": "6 GB"}}}}, "at '/predictor/resources/limits/memory'"),
        ({"gpu": {"mig": "1g"}}, "at '/gpu/mig'"),
        ({"settings": {"SIGHTLINE_AUDIT_READS": True}}, "at '/settings/SIGHTLINE_AUDIT_READS'"),
        ({"settings": {"audit": "none"}}, "propertyName 'audit'"),
        ({"s3": {"roles": {"datasetApi": "arn"}}}, "propertyName 'datasetApi'"),
        ({"images": {"gateway": {"digest": "latest"}}}, "at '/images/gateway/digest'"),
        ({"tls": {"enabled": False}}, "without TLS nothing starts"),
        ({"settings": {"SIGHTLINE_INSECURE": "true"}}, "set either"),
        ({"kueue": {"enabled": True}}, "needs autoscaling.enabled=true"),
        ({"s3": {"identity": "eks"}}, "needs s3.endpoint"),
        (
            {"store": {"kind": "users"}, "s3": {"identity": "web", "endpoint": "s"}},
            "store.kind=users needs s3.identity=keys",
        ),
        ({"store": {"kind": "minio"}}, "at '/store/kind'"),
        ({"seaweedfs": {"replicas": 2}}, "at '/seaweedfs/replicas'"),
        ({"seaweedfs": {"replicas": 5}}, "at '/seaweedfs/replicas'"),
    ],
)
def test_a_value_that_is_none_or_contradicts_another_is_refused(values: Resource, message: str) -> None:
    with pytest.raises(helm.ChartRefused, match=re.escape(message)):
        chart_text(values)


def test_every_value_has_a_schema_that_names_its_parts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def unknown(value: Any, of: Resource, path: str) -> Iterator[str]:
        of = schema["$defs"][of["$ref"].rpartition("/")[2]] if "$ref" in of else of
        if isinstance(value, dict) and "properties" in of:
            assert of["additionalProperties"] is False, path
            assert of["properties"].keys() - {"global"} <= value.keys(), f"{path} has no default of some"
            for key, one in value.items():
                yield from unknown(one, of["properties"][key], f"{path}.{key}")
        elif isinstance(value, dict) and value and "additionalProperties" not in of:
            yield path

    assert list(unknown(values, schema, "values")) == []


@pytest.mark.parametrize("chart", [CHART, CLUSTER_CHART], ids=lambda chart: chart.name)
@pytest.mark.parametrize("version", ["v1.30.0", "v1.37.0"])
def test_helm_finds_nothing_wrong_with_the_chart(chart: Path, version: str) -> None:
    report = helm.lint(chart, version)
    assert report["errors"] == []
    assert [one for one in report["messages"] if "icon" not in one["error"]] == []


def test_the_notes_name_every_secret_that_pods_wait_for() -> None:
    for name in ("default", "local", "everything"):
        values = chart_values(f"chart {name}")
        notes = helm.render(CHART, values, namespace="team-a")["sightline/templates/NOTES.txt"]
        text = text_of(f"chart {name}")
        named = {
            *re.findall(r"secretName: (\S+)", text),
            *re.findall(r"secretKeyRef:\n +key: \S+\n +name: (\S+)", text),
        }
        named -= {"sightline-ca", "sightline-tls", "nats-tls"} if values.get("tls", {}).get("certManager") else set()
        listed = notes.partition("secrets exist")[2].partition("\n\n")[0].split("\n")[1:]
        assert {one.strip() for one in listed} == named


def test_what_belongs_to_the_cluster_is_a_chart_of_its_own_that_keeps_the_teams_resources() -> None:
    theirs = render_text(K8S / "crds") + "---\n" + render_text(K8S / "priority-classes")
    text = chart_text({}, chart=CLUSTER_CHART)
    made, wanted = comparable(text), comparable(theirs)
    for name, one in made.items():
        if name.startswith("CustomResourceDefinition/"):
            assert one["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert made == wanted
    assert not any(one["kind"] == "CustomResourceDefinition" for one in yaml.safe_load_all(text_of("chart everything")))
