"""What all S3 servers of the tests have in common: each is real, checks keys, and ends with its data."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from services.infra.store_policies import PROCESSES
from services.kit.settings import Settings
from tests.support.certificates import Authority
from tests.support.servers import free_port, stop

# The fixtures with an S3 server: the one that is always there, and others, which are skipped where they are missing.
OTHER_STORES = ("seaweed_server", "seaweed_cluster", "ceph_server")
S3_SERVERS = (
    "s3_server",
    *(pytest.param(name, marks=pytest.mark.other_stores) for name in OTHER_STORES),
)
Keys = tuple[str, str]  # access key and secret key


class S3Server(ABC):
    """An S3 endpoint that runs from start to stop, and then loses its data: region us-east-1, buckets in the path."""

    rights = "user"  # what `store_users --rights` it takes

    def __init__(self) -> None:
        self.port = free_port()
        self.access_key, self.secret_key = "sightline-test", uuid.uuid4().hex
        self._folder = Path()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        """Host and port; plain HTTP."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint with its scheme."""
        return f"http://{self.endpoint}"

    def settings(self, **changes: Any) -> Settings:
        """Settings for the server."""
        chosen: dict[str, Any] = {
            "s3_endpoint": self.endpoint,
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
            "s3_secure": False,
        }
        return Settings(**{**chosen, **changes})

    def _write_keys(self, bucket: str) -> tuple[Path, Mapping[str, Keys]]:
        """New keys of each process, and their folder, as the secret `sightline-s3` is mounted."""
        folder = self._folder / f"keys-{bucket}"
        folder.mkdir()
        keys = {
            process: (f"{process.replace('-', '')}{uuid.uuid4().hex[:8]}", uuid.uuid4().hex) for process in PROCESSES
        }
        for process, pair in keys.items():
            for kind, key in zip(("access", "secret"), pair, strict=True):
                (folder / f"{process}-{kind}-key").write_text(f"{key}\n")
        return folder, keys

    @abstractmethod
    def add_users(self, bucket: str) -> Mapping[str, Keys]:
        """Creates a user for each process, who may do in the bucket what deploy/s3 lets the process do."""

    def start(self) -> Self:
        """Starts the server; returns once it answers. A failure leaves nothing behind."""
        self._folder = Path(tempfile.mkdtemp(prefix="s3-", dir="/tmp"))  # sockets have a short path limit
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops its processes, the last one first, and removes their folder."""
        while self._processes:
            stop(self._processes.pop(), seconds=2.0)
        if self._folder.name.startswith("s3-"):
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _start(self) -> None:
        """Starts the processes in `_folder`, and waits until the last one answers."""

    def _process(self, command: Sequence[str | Path], **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts a process as a child, with HOME in the folder; returns it and its log."""
        log = self._folder / f"{Path(command[0]).name}-{len(self._processes)}.out"
        home = {"HOME": str(self._folder)}
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | home | environment)
        self._processes.append(process)
        return process, log


class S3ServerWithKeys(S3Server):
    """One that also has further keys with all rights, and an endpoint with TLS."""

    def __init__(self) -> None:
        super().__init__()
        self.authority = Authority()
        self.secure_port = free_port()

    @property
    def secure_endpoint(self) -> str:
        """Host and port over TLS, with a certificate signed by `ca`."""
        return f"127.0.0.1:{self.secure_port}"

    def secure_settings(self, ca: Path | None, **changes: Any) -> Settings:
        """Settings for TLS; `ca` is trusted."""
        chosen: dict[str, Any] = {"s3_endpoint": self.secure_endpoint, "s3_secure": True, "s3_ca": ca}
        return self.settings(**{**chosen, **changes})

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self._folder / "ca.crt"

    @abstractmethod
    def add_key(self) -> Keys:
        """Creates another access key and its secret with all rights."""

    @abstractmethod
    def remove_key(self, access: str) -> None:
        """Revokes the key: requests signed with it are refused."""


def answers(port: int, path: str = "/") -> Callable[[], bool]:
    """Whether an HTTP server on the port answers a request for the path, whatever the status."""

    def asked() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return asked
