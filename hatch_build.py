"""Hooks of the builds: the stubs of the contract, which `make proto` generates too, and the services' version."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ImportError:  # `make proto` runs this file in an environment that needs no hatchling
    BuildHookInterface = MetadataHookInterface = object

ROOT = Path(__file__).resolve().parent
PACKAGES = ("sightline/v1", "sightline/inference")


class StubsHook(BuildHookInterface):  # type: ignore[misc,valid-type]  # a variable where hatchling is missing
    """Put fresh stubs where both an editable install and a wheel find them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate before hatch collects files; a failure of the compiler fails the build."""
        if self.target_name == "sdist":
            return
        generate(ROOT)


class ReleaseHook(MetadataHookInterface):  # type: ignore[misc,valid-type]  # as above
    """Give the services the version of `sightline`, and make them require exactly that one: they share its modules."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what services/pyproject.toml declares as dynamic."""
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        metadata["version"] = version
        metadata["dependencies"] = [f"sightline=={version}", *self.config["dependencies"]]


def generate(root: Path) -> None:
    """Replace each of PACKAGES by the stubs of every proto in its folder under protos/.

    The result depends only on the protos and the compiler: stubs of a removed proto disappear. If a proto does not
    compile, the old stubs stay, the compiler's message is on stderr, and RuntimeError is raised.
    """
    from grpc_tools import protoc

    protos = [proto for package in PACKAGES for proto in sorted((root / "protos" / package).glob("*.proto"))]
    if not protos:
        raise RuntimeError(f"no protos in {root / 'protos'}")
    with tempfile.TemporaryDirectory(prefix="stubs-", dir=root) as folder:
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={root / 'protos'}",
                f"--proto_path={resources.files('grpc_tools') / '_proto'}",
                *(f"--plugin=protoc-gen-{name}={_plugin(name)}" for name in ("mypy", "mypy_grpc")),
                *(f"--{name}_out={folder}" for name in ("python", "grpc_python")),
                *(f"--{name}_out=quiet:{folder}" for name in ("mypy", "mypy_grpc")),
                *(str(proto) for proto in protos),
            ]
        )
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status}")
        for package in PACKAGES:
            _replace(root / package, Path(folder) / package, f"protos/{package}")


def _replace(target: Path, fresh: Path, source: str) -> None:
    """Moves the fresh stubs to their target; the old ones go with the temporary folder."""
    (fresh / "__init__.py").write_text(f'"""The stubs of {source}, generated."""\n')
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        target.rename(fresh.with_name(f"{fresh.name}.old"))
    fresh.rename(target)


def _plugin(name: str) -> str:
    """The plugin in this interpreter's environment, which need not be on PATH, or else the one on PATH."""
    command = f"protoc-gen-{name}"
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    found = next((hit for folder in folders if (hit := shutil.which(command, path=folder))), shutil.which(command))
    if found is None:
        raise RuntimeError(f"{command} is not installed (PyPI: mypy-protobuf)")
    return found


if __name__ == "__main__":
    generate(ROOT)
