"""Each wheel in a fresh environment: a caller's without torch, the suite's, and the story from the installed files."""

from __future__ import annotations

import shutil
import signal
import zipfile
from pathlib import Path

import pytest

from sightline.client.transport.addresses import Addresses
from sightline.demo.digits import DigitSet
from tests.e2e.conftest import Command
from tests.e2e.test_up import Up, four_free_ports
from tests.support.environments import Environment
from tools import wheels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Wheels = tuple[Path, Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """The wheels built from this tree: the caller's, and that of the services."""
    return wheels.build(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def caller(built: Wheels, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with `sightline` installed."""
    return Environment(tmp_path_factory.mktemp("caller"), built[:1], "sightline")


@pytest.fixture(scope="module")
def services(built: Wheels, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with `sightline-services[all]` installed."""
    return Environment(tmp_path_factory.mktemp("services"), built, "sightline-services", "all")


def test_the_wheels_contain_what_they_must_and_nothing_else(built: Wheels) -> None:
    assert list(wheels.check(*built)) == []


def test_missing_and_superfluous_files_of_a_wheel_are_named(built: Wheels, tmp_path: Path) -> None:
    caller, services = (Path(shutil.copy(wheel, tmp_path)) for wheel in built)
    with zipfile.ZipFile(caller, "a") as wheel:
        wheel.writestr("services/kit/__init__.py", f'"""Was built in {wheels.ROOT}."""\n')
    with zipfile.ZipFile(built[1]) as whole, zipfile.ZipFile(services, "w") as wheel:
        for name in whole.namelist():
            if name != "services/kit/names.py":
                wheel.writestr(name, whole.read(name))
    faults = list(wheels.check(caller, services))
    assert [fault.partition(": ")[2] for fault in faults] == [
        "contains services/kit/__init__.py, which is not part of it",
        f"services/kit/__init__.py contains {wheels.ROOT}, a path of this machine",
        "lacks services/kit/names.py",
    ]


def test_a_callers_environment_is_complete_and_has_neither_torch_nor_the_services(caller: Environment) -> None:
    caller.pip("check")
    found = "from importlib.util import find_spec; print([bool(find_spec(n)) for n in ('torch', 'services', 'nats')])"
    assert caller.run(found) == "[False, False, False]"
    assert caller.run("import sightline.client; print(sightline.client.__file__)").startswith(str(caller.packages))


def test_a_caller_is_told_how_to_get_the_services(caller: Environment, tmp_path: Path) -> None:
    sightline = Command(Addresses(), tmp_path, caller.folder / "bin" / "sightline")
    assert sightline("--version").out.strip() == wheels.version()
    assert "pip install 'sightline-services[all]'" in sightline("up", code=1).err


def test_the_services_environment_is_complete_and_runs_no_code_of_the_tree(services: Environment) -> None:
    services.pip("check")
    code = "import sys, services, sightline; print(services.__file__, sightline.__file__, *sys.path, sep='\\n')"
    assert str(wheels.ROOT) not in services.run(code)
    assert services.run("import services; print(services.__file__)").startswith(str(services.packages))


def test_a_caller_trains_and_predicts_with_a_suite_run_from_the_wheels(
    caller: Environment,
    services: Environment,
    images: tuple[DigitSet, DigitSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    up = Up(tmp_path / "data", four_free_ports(), services.folder / "bin" / "sightline")
    up.start()
    try:
        for pid in up.children():
            assert str(wheels.ROOT) not in Path(f"/proc/{pid}/cmdline").read_text()
        addresses = Addresses(*(f"127.0.0.1:{up.base_port + n}" for n in range(3)))
        sightline = Command(addresses, tmp_path, caller.folder / "bin" / "sightline")
        for name, made in zip(("train", "test"), images, strict=True):
            sightline("datasets", "create", name, "--kind", "classification", "--coco", made.coco, "--wait")
        words = ("--dataset", "train", "--test-dataset", "test", "--budget", "30s", "--watch", "--json")
        model = sightline("models", "train", "digits", *words).json
        assert model["state"] == "SUCCEEDED"
        answer = sightline("predict", "digits", next(iter(images[1].truth)), "--json").json
        assert answer["modelVersion"] == model["modelVersion"]
    finally:
        assert up.end(signal.SIGINT) == 0
