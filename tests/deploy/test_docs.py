"""The commands and overlays of docs/kubernetes.md and docs/monitoring.md produce what the cluster needs."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.infra.static_keys import parse
from services.kit.roles import Role
from sightline.client.keys import digest
from sightline.client.signing_keys import fingerprint, private_key, public_keys
from sightline.local.nats_users import ADMIN, USERS
from tests.support.manifests import K8S, ROOT, environment, of_kind, render_text
from tests.support.servers import find_program

KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text()
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()
# Replaces kubectl: writes what `create secret generic NAME --from-file/--from-literal` would store into files.
KUBECTL = """#!/usr/bin/env bash
set -eu
[ "$3" = create ] || exit 0
mkdir -p "secrets/$6"
for word in "${@:7}"; do
  option=${word%%=*} rest=${word#*=}
  case "$option" in
    --from-literal) printf %s "${rest#*=}" > "secrets/$6/${rest%%=*}" ;;
    --from-file) cp "${rest#*=}" "secrets/$6/${rest%%=*}" ;;
  esac
done
"""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets that the documented commands create, a folder each."""
    folder = tmp_path_factory.mktemp("secrets")
    found = re.search(r"<!-- tests/deploy/test_docs.py .*? -->\n```sh\n(.*?)```", KUBERNETES, re.DOTALL)
    assert found
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {
        "kubectl": KUBECTL,
        "sightline": f'#!/usr/bin/env bash\nPYTHONPATH={ROOT} exec {sys.executable} -m sightline "$@"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    command = ["bash", "-euc", found[1]]
    done = subprocess.run(command, cwd=folder, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def test_the_documented_driver_supports_the_cuda_version_of_torch() -> None:
    major, minor = metadata.version("nvidia-cuda-runtime").split(".")[:2]
    chapter = KUBERNETES.partition("\n## GPUs\n")[2].partition("\n##")[0]
    assert f"built for CUDA {major}.{minor}." in chapter
    assert {"13": "version 580 or later"}[major] in chapter, "see NVIDIA's table of drivers for this CUDA"


@pytest.mark.parametrize("name", ["sightline-tls", "nats-tls"])
def test_a_certificate_is_signed_by_the_ca_and_matches_its_key(secrets: Path, name: str) -> None:
    folder = secrets / "secrets" / name
    for purpose in ("sslserver", "sslclient"):
        verify = ["openssl", "verify", "-purpose", purpose, "-CAfile", "ca.crt", "tls.crt"]
        subprocess.run(verify, cwd=folder, check=True, capture_output=True)
    keys = [
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True).stdout
        for words in (["x509", "-in", "tls.crt", "-noout", "-pubkey"], ["pkey", "-in", "tls.key", "-pubout"])
    ]
    assert keys[0] == keys[1]


def test_the_certificates_cover_every_name_of_the_servers(secrets: Path) -> None:
    values = environment("tls", "predictor")
    called = {
        "sightline-tls": {values["SIGHTLINE_DATASET_ADDRESS"], values["SIGHTLINE_TRAINER_ADDRESS"], "predictor:50053"},
        "nats-tls": {url.removeprefix("nats://") for url in values["SIGHTLINE_NATS_URL"].split(",")},
    }
    (config,) = [one["data"]["cluster.conf"] for one in of_kind("tls", "ConfigMap") if "nats.conf" in one["data"]]
    called["nats-tls"] |= (routes := set(re.findall(r"nats://([\w.-]+:\d+)", config)))
    assert routes
    for name, addresses in called.items():
        certificate = secrets / "secrets" / name / "tls.crt"
        for address in addresses:
            host = address.partition(":")[0]
            check = ["openssl", "x509", "-in", str(certificate), "-noout", "-checkhost", host]
            output = subprocess.run(check, capture_output=True, text=True, check=True).stdout
            assert "does match" in output, f"{name}: {output}"


def test_the_keys_belong_to_the_services_and_an_administrator(secrets: Path) -> None:
    callers = parse((secrets / "secrets" / "sightline-auth" / "keys").read_bytes())
    token = (secrets / "secrets" / "sightline-token" / "token").read_text()
    assert callers[digest(token)].roles == {Role.VIEWER}
    (printed,) = re.findall(r"slk_\S+", (secrets / "printed").read_text())
    assert callers[digest(printed)].roles == {Role.ADMIN}


def test_every_user_of_nats_has_a_password_that_the_server_reads_as_text(secrets: Path) -> None:
    found = {file.name: file.read_text() for file in (secrets / "secrets" / "sightline-nats").iterdir()}
    assert found.keys() == {*USERS, ADMIN}
    assert all(re.fullmatch("[a-z][a-z0-9]{30,}", password) for password in found.values())
    assert len(set(found.values())) == len(found)


def test_the_documented_signing_keys_are_a_pair(secrets: Path) -> None:
    private, public = (secrets / "secrets" / "sightline-signing" / f"{one}-key.pem" for one in ("signing", "bundle"))
    (trusted,) = public_keys(public.read_bytes())
    assert fingerprint(private_key(private.read_text()).public_key()) == fingerprint(trusted)


def test_the_documented_overlay_pulls_every_image_from_the_registry_and_works_in_any_namespace(tmp_path: Path) -> None:
    found = re.search(r"`deploy/k8s/(overlays/ours)/kustomization.yaml`:\n\n```yaml\n(.*?)```", KUBERNETES, re.DOTALL)
    assert found
    folder = shutil.copytree(K8S, tmp_path / "k8s") / found[1]
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(found[2].replace("namespace: sightline", "namespace: team-a"))
    text = render_text(folder)
    assert "nats.team-a.svc" in text
    assert "namespace: sightline" not in text
    images = set(re.findall(r"image: (\S+)", text))
    names = {one.removeprefix("registry.example/") for one in images if "sightline" in one}
    assert len(names) == 5
    assert not names & images


def test_the_documented_command_points_every_alert_to_a_teams_own_runbooks(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    found = re.search(r"`python (tools/manifests.py --runbooks (\S+))`", MONITORING)
    assert found
    run = [sys.executable, *found[1].split()]
    subprocess.run(run, cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "tools/manifests.py", "--check"], cwd=tmp_path, check=True)
    before = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    for path in ("deploy/prometheus/rules.yaml", "deploy/k8s/components/monitoring/rules.yaml"):
        after = yaml.safe_load((tmp_path / path).read_text())
        assert runbooks(after.get("spec", after)) == [f"{found[2]}#{anchor(url)}" for url in runbooks(before)]
    tested = [find_program("promtool", "prometheus"), "test", "rules", "tests.yaml"]
    subprocess.run(tested, cwd=tmp_path / "deploy/prometheus", check=True, capture_output=True)
    refused = subprocess.run([*run[:-1], "wiki"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "must be an http url" in refused.stderr


def test_the_documented_overlay_points_every_alert_to_a_teams_own_runbooks(tmp_path: Path) -> None:
    found = re.search(r"### Where the runbooks are\n.*?```yaml\n(.*?)```", MONITORING, re.DOTALL)
    assert found
    folder = shutil.copytree(K8S, tmp_path / "k8s") / "overlays" / "ours"
    folder.mkdir()
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../production]\n"
    (folder / "kustomization.yaml").write_text(head + found[1])
    rendered = [one for one in yaml.safe_load_all(render_text(folder)) if one["kind"] == "PrometheusRule"]
    (before,) = of_kind("overlay production", "PrometheusRule")
    expected = [f"https://wiki.example/sightline#{anchor(url)}" for url in runbooks(before["spec"])]
    assert [runbooks(one["spec"]) for one in rendered] == [expected]


def test_the_documented_overlay_changes_an_objective(tmp_path: Path) -> None:
    (rules,) = [one for one in _with(tmp_path, "### Objectives") if one["kind"] == "PrometheusRule"]
    (objectives,) = [one["rules"] for one in rules["spec"]["groups"] if one["name"] == "sightline-objectives"]
    assert objectives[0] == {
        "record": "sightline:objective",
        "labels": {"class": "predict", "objective": "availability"},
        "expr": "vector(0.9995)",
    }


def test_the_documented_overlay_gives_every_process_its_collector_of_traces(tmp_path: Path) -> None:
    (shared,) = [
        one["data"]
        for one in _with(tmp_path, "## Traces")
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("sightline-settings")
    ]
    assert shared["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector.monitoring:4317"
    assert "SIGHTLINE_NATS_URL" in shared


def _with(folder: Path, title: str) -> list[dict[str, Any]]:
    """What the overlay `production` with the first lines of YAML below the title renders."""
    found = re.search(rf"^{title}\n.*?```yaml\n(.*?)```", MONITORING, re.DOTALL | re.MULTILINE)
    assert found
    overlay = shutil.copytree(K8S, folder / "k8s") / "overlays" / "ours"
    overlay.mkdir()
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../production]\n"
    (overlay / "kustomization.yaml").write_text(head + found[1])
    return [one for one in yaml.safe_load_all(render_text(overlay)) if one]


def runbooks(rules: dict[str, Any]) -> list[str]:
    return [
        rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    ]


def anchor(url: str) -> str:
    return url.partition("#")[2]


def test_the_overlay_with_credentials_from_the_cloud_reaches_the_bucket_of_its_region(tmp_path: Path) -> None:
    access = (ROOT / "docs" / "access.md").read_text()
    (block,) = re.findall(r"```yaml\n(components:\n.*?)```", access, re.DOTALL)
    shutil.copytree(K8S, tmp_path / "k8s")
    ours = tmp_path / "k8s" / "overlays" / "ours"
    ours.mkdir()
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../base]\n"
    (ours / "kustomization.yaml").write_text(head + block)
    made = {
        (one["kind"], one["metadata"]["name"].split("-settings")[0]): one
        for one in yaml.safe_load_all(render_text(ours))
    }
    settings = made["ConfigMap", "sightline"]["data"]
    assert settings["SIGHTLINE_S3_ENDPOINT"] == "s3.eu-central-1.amazonaws.com"
    assert settings["SIGHTLINE_S3_REGION"] == "eu-central-1"
    assert "role-arn" in str(made["ServiceAccount", "sightline-dataset-api"]["metadata"]["annotations"])
