"""The manifests of deploy/k8s as a cluster gets them: rendered by kubectl and parsed."""

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from services.dataset.settings import DatasetSettings
from services.gateway.settings import GatewaySettings
from services.infra.observe import COLLECTORS
from services.kit.settings import Settings
from services.predictor.settings import PredictorSettings
from services.trainer.settings import TrainerSettings
from sightline.client.transport.addresses import VARIABLES
from tests.support import helm

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
NAMESPACE = "sightline"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())

# All components together and each alone, in the order that their files require.
COMBINATIONS: dict[str, tuple[str, ...]] = {
    "gpu-mig": ("gpu-mig",),
    "autoscaling": ("autoscaling",),
    "store-users": ("store-users",),
    "store-seaweedfs": ("store-seaweedfs",),
    "store-versitygw": ("store-versitygw",),
    "tls": ("tls",),
    "signing": ("signing",),
    "monitoring": ("monitoring",),
    "network-policies": ("network-policies",),
    "gpu": ("gpu", "predictor-torch"),
    "kueue": ("autoscaling", "kueue"),
    "operator": ("operator",),
    "nats-single": ("nats-single",),
    "openshift": ("store-seaweedfs", "openshift", "autoscaling"),
    "certificates": ("tls", "certificates"),
    "placed": ("store-versitygw", "gpu", "gpu-runtime-class", "priorities", "pull-secret"),
    "identity": ("workload-identity", "autoscaling", "network-policies", "pod-identity"),
    "web-identity": ("workload-identity", "web-identity"),
    "all": (
        "operator",
        "store-seaweedfs",
        "tls",
        "certificates",
        "signing",
        "gpu-mig",
        "autoscaling",
        "monitoring",
        "network-policies",
        "kueue",
    ),
}

Resource = dict[str, Any]
CHART = ROOT / "deploy" / "helm" / "sightline"
IDENTITY = {"identity", "web-identity", "chart everything"}  # processes without keys of the store
CLUSTER_WIDE = {"ResourceFlavor", "ClusterQueue"}
APIS = {"dataset-api", "trainer-api", "predictor"}
OPERATOR = "operator"  # only with its component, and the only one that uses the Kubernetes API
GATEWAY = "gateway"  # serves HTTP, and has neither NATS nor the store
SERVERS = APIS | {GATEWAY}
OURS: dict[str, type[Settings]] = {
    "dataset-api": DatasetSettings,
    "dataset-worker": DatasetSettings,
    "trainer-api": TrainerSettings,
    "trainer-worker": TrainerSettings,
    "predictor": PredictorSettings,
    GATEWAY: GatewaySettings,
    "predictor-worker": PredictorSettings,
}
WITH_STORE = [name for name in OURS if name != GATEWAY]


def variables(*settings: type[Settings]) -> set[str]:
    """The variables that these settings read; those of secrets also as files."""
    fields = [(f"SIGHTLINE_{name.upper()}", field) for one in settings for name, field in one.model_fields.items()]
    return {name for name, _ in fields} | {f"{name}_FILE" for name, field in fields if field.annotation is SecretStr}


# The variables allowed in a shared environment: settings, addresses for the doctor, and a collector of traces.
SHARED = variables(*OURS.values()) | {*VARIABLES.values(), *COLLECTORS}


def tool(name: str) -> str:
    """The program next to this Python, or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is missing: `make setup` installs it"
    return found


def render_text(folder: Path) -> str:
    """The output of `kubectl kustomize`; AssertionError with its error message if it fails."""
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


@functools.cache
def text_of(name: str) -> str:
    """An overlay as YAML, or base with a combination of components, or the chart with a file of values."""
    if name.startswith("chart "):
        return chart_text(chart_values(name))
    if name.startswith("overlay "):
        return render_text(K8S / "overlays" / name.removeprefix("overlay "))
    return combined_text(*COMBINATIONS[name])


def combined_text(*components: str, namespace: str = NAMESPACE) -> str:
    """Base with these components, in this order."""
    return _overlay_text({"components": [f"../../components/{one}" for one in components]}, "../../base", namespace)


@functools.cache
def text_in(name: str, namespace: str) -> str:
    """The same in another namespace, by an overlay such as an administrator would write."""
    if name.startswith("chart "):
        return chart_text(chart_values(name), namespace)
    if name.startswith("overlay "):
        return _overlay_text({}, f"../{name.removeprefix('overlay ')}", namespace)
    return combined_text(*COMBINATIONS[name], namespace=namespace)


def _overlay_text(parts: dict[str, list[str]], resource: str, namespace: str) -> str:
    overlay = {"namespace": namespace, "resources": [resource], **parts, "transformers": ["../../namespace"]}
    with tempfile.TemporaryDirectory(prefix="render-") as folder:
        made = shutil.copytree(K8S, Path(folder) / "k8s") / "overlays" / "made"
        made.mkdir()
        head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        (made / "kustomization.yaml").write_text(yaml.safe_dump(head | overlay))
        return render_text(made)


def chart_values(name: str) -> Resource:
    """The values of `chart NAME`: those of its file in the chart or next to the tests; none for `default`."""
    word = name.removeprefix("chart ")
    own = CHART / f"values-{word}.yaml"
    path = own if own.exists() else Path(__file__).parents[1] / "deploy" / f"values-{word}.yaml"
    return {} if word == "default" else yaml.safe_load(path.read_text())


def chart_text(values: Resource, namespace: str = NAMESPACE, chart: Path = CHART) -> str:
    """The resources of the chart, rendered by Helm, in kubectl's form."""
    made = helm.render(chart, values, namespace=namespace)
    manifests = [text for name, text in sorted(made.items()) if name.endswith(".yaml")]
    found = [one for text in manifests for one in yaml.load_all(text, yaml.CSafeLoader) if one]
    return yaml.dump_all(found, Dumper=yaml.CSafeDumper)


NAMES = [*(f"overlay {one}" for one in OVERLAYS), *COMBINATIONS, "chart default", "chart everything"]


@functools.cache
def resources(name: str) -> tuple[Resource, ...]:
    """Every resource of a rendering."""
    return tuple(one for one in yaml.load_all(text_of(name), yaml.CSafeLoader) if one)


def of_kind(name: str, *kinds: str) -> list[Resource]:
    """The resources of these kinds."""
    return [one for one in resources(name) if one["kind"] in kinds]


def title(resource: Resource) -> str:
    """The resource's name in failure messages."""
    return f"{resource['kind']}/{resource['metadata']['name']}"


def template(workload: Resource) -> Resource:
    """A workload's pod template."""
    spec = workload["spec"]
    return spec["jobTargetRef"]["template"] if workload["kind"] == "ScaledJob" else spec["template"]


def workloads(name: str) -> list[Resource]:
    """The resources that create pods; AssertionError unless all of OURS are among them."""
    found = of_kind(name, "Deployment", "StatefulSet", "ScaledJob", "Job", "DaemonSet", "CronJob")
    assert OURS.keys() < {one["metadata"]["name"] for one in found}, name
    return found


def containers(name: str) -> list[tuple[str, Resource, Resource]]:
    """Every container, each with a title for failure messages and its pod's spec."""
    pods = [(title(workload), template(workload)["spec"]) for workload in workloads(name)]
    found = [
        (f"{what}, container {container['name']}", pod, container)
        for what, pod in pods
        for container in [*pod["containers"], *pod.get("initContainers", [])]
    ]
    assert OURS.keys() < {container["name"] for _, _, container in found}, name
    return found


def environment(name: str, pod_name: str) -> dict[str, str]:
    """The plain variables of a workload's container: those of its ConfigMaps, overridden by its own."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(name, "ConfigMap")}
    (workload,) = [one for one in workloads(name) if one["metadata"]["name"] == pod_name]
    container = template(workload)["spec"]["containers"][0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    return found | {one["name"]: one.get("value", "") for one in container.get("env", [])}


def quantity(amount: str | int) -> float:
    """A Kubernetes quantity (500m, 2, 4Gi) as a number."""
    found = re.fullmatch(r"([\d.]+)(m|[KMGT]i)?", str(amount))
    assert found, amount
    return float(found[1]) * {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[found[2]]


def as_builtin(resource: Resource) -> Resource:
    """A ScaledJob as the Job that it creates, so that checks of built-in kinds see its pods; others unchanged."""
    if resource["kind"] != "ScaledJob":
        return resource
    spec = resource["spec"]["jobTargetRef"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": resource["metadata"], "spec": spec}
