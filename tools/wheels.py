"""Build the wheels of both distributions into a folder, and check their contents."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from hatch_build import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
STUBS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
NOT_SHIPPED = {"services/LICENSE", "services/pyproject.toml"}  # metadata has both
BUILD = "sightline-build-"


def main() -> int:
    """Write the wheels to the folder in the first argument, replacing older ones; return 1 if one is wrong."""
    target = Path(sys.argv[1]).resolve()
    for old in target.glob("sightline*.whl"):
        old.unlink()
    wheels = build(target)
    faults = list(check(*wheels))
    print("\n".join(faults or map(str, wheels)))
    return 1 if faults else 0


def version() -> str:
    """The version of this tree, which is set in pyproject.toml only."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def build(target: Path) -> tuple[Path, Path]:
    """Build the wheels of `sightline` and `sightline-services`, from the files that git knows or would add.

    Raises RuntimeError with the builder's output if a build fails.
    """
    with tempfile.TemporaryDirectory(prefix=BUILD) as folder:
        for name in tracked():
            copy = Path(folder, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy, follow_symlinks=False)
        pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
        command = [*pip, "--wheel-dir", str(target), ".", "./services"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"building the wheels failed:\n{done.stdout}{done.stderr}")
    (caller,) = target.glob("sightline-*.whl")
    (services,) = target.glob("sightline_services-*.whl")
    return caller, services


def check(caller: Path, services: Path) -> Iterator[str]:
    """What is wrong with the two wheels, each fault as `wheel: what is wrong`."""
    yield from _check(caller, set(stubs()) | set(tracked("sightline")))
    yield from _check(services, set(tracked("services")) - NOT_SHIPPED)
    if f"sightline=={version()}" not in _metadata(services).get_all("Requires-Dist", []):
        yield f"{services.name}: does not require sightline=={version()}"


def stubs() -> Iterator[str]:
    """The modules that the build generates from the protos."""
    for package in PACKAGES:
        yield f"{package}/__init__.py"
        for proto in (ROOT / "protos" / package).glob("*.proto"):
            yield from (f"{package}/{proto.stem}{suffix}" for suffix in STUBS)


def tracked(*patterns: str) -> list[str]:
    """The files that git knows or would add, by their paths from the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(name for name in set(listed) if (ROOT / name).exists())


def _check(path: Path, wanted: set[str]) -> Iterator[str]:
    """A wheel has this version, its files and licence and no others, and contains no path of this machine."""
    if _metadata(path)["Version"] != version():
        yield f"{path.name}: its version is not {version()}"
    with zipfile.ZipFile(path) as wheel:
        held = {name: wheel.read(name).decode() for name in wheel.namelist()}
    own = {name for name in held if ".dist-info/" not in name}
    yield from (f"{path.name}: lacks {name}" for name in sorted(wanted - own))
    yield from (f"{path.name}: contains {name}, which is not part of it" for name in sorted(own - wanted))
    if not any(name.endswith("/licenses/LICENSE") for name in held):
        yield f"{path.name}: lacks the licence"
    places = (str(ROOT), BUILD, sys.prefix, f"{Path.home()}/")
    for name, text in held.items():
        yield from (
            f"{path.name}: {name} contains {place}, a path of this machine" for place in places if place in text
        )


def _metadata(path: Path) -> Message:
    with zipfile.ZipFile(path) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(wheel.read(name).decode())


if __name__ == "__main__":
    sys.exit(main())
