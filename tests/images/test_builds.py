"""The images are built for real, by buildah over a base made by debootstrap, and tried as the user that they name.

In place of the official Python image stands Debian's own Python: no engine and no registry of images is needed.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = "localhost/python-of-debian"
MODULES = {
    "dataset": "services.dataset",
    "trainer-api": "services.trainer",
    "trainer-worker": "services.trainer",
    "predictor": "services.predictor",
}
WITHOUT_TORCH_MIB = 400  # of everything, the base included; torch alone is several times that

pytestmark = pytest.mark.timeout(3600)
Buildah = Callable[..., str]


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Generator[Buildah]:
    """Runs buildah over a store of its own, which is gone afterwards."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name, path=path) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, buildah and debootstrap (Debian packages); missing: {missing or 'root'}")
    store = tmp_path_factory.mktemp("store")
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs", "PATH": path}

    def run(*words: str) -> str:
        command = ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run"), *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words[:4])}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    folder = tmp_path_factory.mktemp("debian")
    packages = "--include=python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    container = run("from", "scratch")
    run("add", container, str(folder), "/")
    run("commit", "--rm", container, BASE)
    shutil.rmtree(folder)
    yield run
    shutil.rmtree(store)


@pytest.fixture(scope="session", params=MODULES)
def target(request: pytest.FixtureRequest, buildah: Buildah) -> str:
    """A target, built under its own name."""
    name: str = request.param
    words = ["build", "--layers", "--pull=never", "--build-arg", f"PYTHON_IMAGE={BASE}", "--build-arg", "REVISION=test"]
    buildah(*words, *_as_pip_here(), "--target", name, "--tag", f"localhost/{name}", "--file", "deploy/Dockerfile", ".")
    return name


def _as_pip_here() -> list[str]:
    """Options by which pip finds packages during the build as it does on this machine."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    words = [word.strip("'").removeprefix("file://") for word in listed.stdout.replace("=", " ").split()]
    folders = {str(Path(*Path(word).parts[:3])) for word in words if word.startswith("/") and Path(word).exists()}
    found = [option for folder in sorted(folders) for option in ("--volume", f"{folder}:{folder}:ro")]
    if Path("/etc/pip.conf").exists():
        found += ["--volume", "/etc/pip.conf:/etc/pip.conf:ro"]
    for name in ("PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HTTPS_PROXY", "https_proxy"):
        if name in os.environ:
            found += ["--env", f"{name}={os.environ[name]}"]
    return found


@pytest.fixture
def run(buildah: Buildah, target: str) -> Generator[Buildah]:
    """Runs a command in a container of the image, as its user."""
    container = buildah("from", "--pull=never", f"localhost/{target}")
    yield lambda *words: buildah("run", container, "--", *words)
    buildah("rm", container)


def test_it_prints_its_settings_as_a_user_without_rights(run: Buildah, target: str) -> None:
    settings = json.loads(run("python", "-m", MODULES[target], "--settings"))
    assert settings["host"] == "0.0.0.0"
    assert settings["metrics_port"] == 9090
    assert run("id", "-u") == "10001"


def test_apis_hold_no_torch_and_the_others_do(run: Buildah, target: str) -> None:
    found = run("python", "-c", "import importlib.util as u; print(bool(u.find_spec('torch')))")
    assert found == str(target in {"trainer-worker", "predictor"})


def test_it_holds_no_tools_to_build_or_install_with(run: Buildah) -> None:
    words = "gcc cc make git pip protoc"
    assert run("bash", "-c", f"for one in {words}; do command -v $one || true; done") == ""


def test_its_user_may_write_to_the_declared_folders_only(run: Buildah, target: str) -> None:
    declared = {"trainer-worker": {"/work"}, "predictor": {"/cache"}}.get(target, set())
    test = (
        "find / -xdev -type d -writable -not -path '/proc/*' -not -path '/sys/*' -not -path '/dev*' 2>/dev/null || true"
    )
    written = set(run("bash", "-c", test).splitlines())
    usual = {"/tmp", "/var/tmp", "/run/lock", "/work", "/cache"}
    assert {"/tmp", *declared} <= written <= usual


def test_its_labels_and_its_user_are_set(buildah: Buildah, target: str) -> None:
    config = json.loads(buildah("inspect", "--type", "image", f"localhost/{target}"))["OCIv1"]["config"]
    labels = config["Labels"]
    assert config["User"] == "10001:10001"
    assert labels["org.opencontainers.image.revision"] == "test"
    assert labels["org.opencontainers.image.title"].startswith("Sightline ")


def test_an_image_without_torch_is_small(run: Buildah, target: str) -> None:
    if target in {"dataset", "trainer-api"}:
        size = run("bash", "-c", "du -smx / --exclude=/proc --exclude=/sys 2>/dev/null | cut -f1 || true")
        assert int(size) < WITHOUT_TORCH_MIB
