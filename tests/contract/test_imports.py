"""What a process has imported once it has started: the import rules of `make check`, seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NO_TORCH = {"torch", "torchvision", "sklearn"}
NO_SERVER = {"services", "nats", "minio", "msgspec", "pydantic_settings", "structlog"}
NO_GRPC = {"grpc", "nats"}
NO_CLIENT = {"grpc", "google", "rich", "PIL"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("services.dataset.__main__", NO_TORCH),
        ("services.trainer.__main__", NO_TORCH),
        ("services.gateway.__main__", NO_TORCH),
        ("services.operator.__main__", NO_TORCH),
        ("services.trainer.engine.__main__", NO_GRPC),
        ("services.kit.settings", NO_GRPC | NO_CLIENT),
        ("sightline", NO_CLIENT | NO_TORCH | NO_SERVER),
        ("sightline.client.client_aio", NO_TORCH | NO_SERVER | {"typer"}),
        ("sightline.cli.commands", NO_TORCH | NO_SERVER),
    ],
)
def test_a_process_imports_only_what_it_needs(module: str, forbidden: set[str]) -> None:
    assert sorted(forbidden & packages_after_importing(module)) == []


def packages_after_importing(module: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after this import."""
    script = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))
