"""Building takes minutes and gigabytes, so these tests run only by `make test-images`.

The images are built by buildah on a base made by debootstrap: Debian's Python replaces the official Python image, so
that neither an engine nor a registry is needed.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.support.containers import Buildah, Container, container_of

ROOT = Path(__file__).parents[2]
BASE = "localhost/python-of-debian"

collect_ignore_glob = [] if any("tests/images" in word for word in sys.argv) else ["test_*.py"]


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Generator[Buildah]:
    """Runs buildah with a temporary store."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name, path=path) is None]
    assert not missing, f"these Debian packages are missing: {missing}"
    assert os.geteuid() == 0, "only root may mount what is built"
    store = tmp_path_factory.mktemp("store")
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot", "PATH": path}

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
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):  # of containers, and of interrupted builds
        if (place := line.split()[1]).startswith(str(store)):
            subprocess.run(["umount", place], check=False)
    shutil.rmtree(store)


@pytest.fixture(scope="session")
def images(buildah: Buildah) -> Callable[[str], Container]:
    """Builds a target and creates a container of it, each only once."""

    @functools.cache
    def built(target: str) -> Container:
        words = ["build", "--layers", "--pull=never", "--build-arg", f"PYTHON_IMAGE={BASE}"]
        place = ["--build-arg", "REVISION=test", "--target", target, "--tag", f"localhost/{target}"]
        buildah(*words, *place, *_pip_configuration(), "--file", "deploy/Dockerfile", ".")
        return container_of(buildah, f"localhost/{target}")

    return built


def _pip_configuration() -> list[str]:
    """Options that give pip in the build the configuration of this machine."""
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
