"""Each image alone, run as its user on a read-only root."""

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.support.containers import Container

MODULES = {
    "dataset": "services.dataset",
    "trainer-api": "services.trainer",
    "trainer-worker": "services.trainer",
    "predictor": "services.predictor",
    "predictor-torch": "services.predictor",
    "gateway": "services.gateway",
    "operator": "services.operator",
}
# Without the base; torch alone is several times that.
MOST_MIB = {"dataset": 250, "trainer-api": 250, "gateway": 250, "operator": 300, "predictor": 400}

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(params=MODULES)
def target(request: pytest.FixtureRequest) -> str:
    """One of the images."""
    name: str = request.param
    return name


@pytest.fixture
def container(images: Callable[[str], Container], target: str) -> Container:
    """A container of the image."""
    return images(target)


@pytest.fixture
def run(container: Container) -> Callable[..., str]:
    """Runs a command in the container; returns its output."""

    def printed_by(*words: str) -> str:
        done = subprocess.run(container.command(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return printed_by


def test_the_image_prints_its_settings_as_an_unprivileged_user(run: Callable[..., str], target: str) -> None:
    settings = json.loads(run("python", "-m", MODULES[target], "--settings"))
    assert settings["host"] == "0.0.0.0"
    assert settings["metrics_port"] == 9090
    assert run("id", "-u") == "10001"


def test_only_the_images_that_train_or_say_so_contain_torch(run: Callable[..., str], target: str) -> None:
    found = run("python", "-c", "import importlib.util as u; print(bool(u.find_spec('torch')))")
    assert found == str(target in {"trainer-worker", "predictor-torch"})


def test_the_image_contains_no_build_or_install_tools(run: Callable[..., str]) -> None:
    words = "gcc cc make git pip protoc"
    assert run("bash", "-c", f"for one in {words}; do command -v $one || true; done") == ""


def test_the_user_may_write_only_to_the_declared_folders(container: Container, target: str) -> None:
    declared = {"trainer-worker": {"/work"}, "predictor": {"/cache"}, "predictor-torch": {"/cache"}}.get(target, set())
    test = "find / -xdev -type d -writable 2>/dev/null || true"
    command = container.command("sh", "-c", test, mounts={}, read_only=False)
    written = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    usual = {"/tmp", "/var/tmp", "/run/lock", "/work", "/cache"}
    assert {"/tmp", *declared} <= written <= usual


def test_the_labels_and_the_user_are_set(container: Container) -> None:
    labels = container.config["Labels"]
    assert container.config["User"] == "10001:10001"
    assert labels["org.opencontainers.image.revision"] == "test"
    assert labels["org.opencontainers.image.title"].startswith("Sightline ")


@pytest.mark.parametrize(("one", "other"), [("dataset", "trainer-api"), ("trainer-worker", "predictor-torch")])
def test_two_images_with_the_same_packages_have_the_same_layers(
    images: Callable[[str], Container], one: str, other: str
) -> None:
    assert images(one).layers == images(other).layers


def test_what_an_image_without_torch_adds_is_small(container: Container, target: str) -> None:
    if target in MOST_MIB:
        du = ["du", "--summarize", "--block-size=1M", str(container.root / "opt" / "sightline")]
        size = subprocess.run(du, capture_output=True, text=True, check=True).stdout.split()[0]
        assert int(size) < MOST_MIB[target]
