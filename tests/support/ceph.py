"""A real S3 server for tests: Ceph's RADOS gateway over one monitor and one object daemon, all in memory."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any, Self

from services.kit.settings import Settings
from tests.support.certificates import Authority
from tests.support.servers import ServerFailed, find_program, free_port, stop, wait_until

STORE_BYTES = 2 * 1024**3
COMMAND_SECONDS = 60.0
PACKAGES = {
    "ceph": "ceph-common",
    "monmaptool": "ceph-common",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "radosgw": "radosgw",
    "radosgw-admin": "radosgw",
}

CONFIG = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
# Loopback only: no keys between the daemons.
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
# One copy, on one daemon.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
# The data is in memory: a disk that is nearly full is no reason not to start.
mon data avail warn = 1
mon data avail crit = 1
mon max pg per osd = 1000
# Agree at once: a single monitor has no peers to wait for.
paxos propose interval = 0.02
paxos min wait = 0.01
# All files here: unix sockets have a short path limit.
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
crash dir = {folder}/crash
mon cluster log file = {folder}/cluster.log

[mon]
mon data = {folder}/mon

[osd]
public addr = 127.0.0.1
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {store_bytes}

[client]
public addr = 127.0.0.1
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1 {tls}
rgw data = {folder}/rgw
"""


class CephGateway:
    """An S3 endpoint that runs from start to stop, and then loses its data."""

    def __init__(self) -> None:
        self.port, self.secure_port = free_port(), free_port()
        self.access_key = "sightline-test"
        self.secret_key = uuid.uuid4().hex
        self._folder = Path()
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        """Host and port; plain HTTP, region us-east-1, buckets in the path."""
        return f"127.0.0.1:{self.port}"

    @property
    def secure_endpoint(self) -> str:
        """The same over TLS, with a certificate signed by `ca`."""
        return f"127.0.0.1:{self.secure_port}"

    def settings(self, **changes: Any) -> Settings:
        """Settings for the server over plain HTTP."""
        chosen: dict[str, Any] = {
            "s3_endpoint": self.endpoint,
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
            "s3_secure": False,
        }
        return Settings(**{**chosen, **changes})

    def secure_settings(self, ca: Path | None, **changes: Any) -> Settings:
        """The same over TLS; `ca` is trusted."""
        chosen: dict[str, Any] = {"s3_endpoint": self.secure_endpoint, "s3_secure": True, "s3_ca": ca}
        return self.settings(**{**chosen, **changes})

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self._folder / "ca.crt"

    @property
    def url(self) -> str:
        """The endpoint with its scheme."""
        return f"http://{self.endpoint}"

    def start(self) -> Self:
        """Starts monitor, object daemon and gateway, in this order; a failure leaves nothing behind."""
        programs = {name: find_program(name, package) for name, package in PACKAGES.items()}
        self._folder = Path(tempfile.mkdtemp(prefix="s3-", dir="/tmp"))
        try:
            self._start_monitor(programs)
            self._start_object_daemon(programs)
            self._start_gateway(programs)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops the daemons, the last one first, and removes their folder."""
        while self._daemons:
            stop(self._daemons.pop(), seconds=2.0)
        if self._folder.name.startswith("s3-"):
            shutil.rmtree(self._folder, ignore_errors=True)

    def add_key(self) -> tuple[str, str]:
        """Creates another access key and its secret for the same user."""
        access, secret = f"key-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        self._administer("key", "create", f"--access-key={access}", f"--secret-key={secret}")
        return access, secret

    def add_user(self, name: str) -> tuple[str, str]:
        """Creates a user without rights, whom policies name `arn:aws:iam:::user/NAME`; returns its keys."""
        access, secret = f"{name}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        keys = (f"--access-key={access}", f"--secret-key={secret}")
        program = find_program("radosgw-admin", PACKAGES["radosgw-admin"])
        self._run(program, "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return access, secret

    def remove_key(self, access: str) -> None:
        """Revokes the key: requests signed with it are refused."""
        self._administer("key", "rm", f"--access-key={access}")

    def _administer(self, *words: str) -> None:
        self._run(find_program("radosgw-admin", PACKAGES["radosgw-admin"]), *words, "--uid=test", "--key-type=s3")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_monitor(self, programs: dict[str, str]) -> None:
        fsid, mon_port = str(uuid.uuid4()), free_port()
        for name in ("mon", "osd", "rgw", "crash"):
            (self._folder / name).mkdir()
        authority = Authority()
        authority.write(self._folder)
        certificate, key = authority.pair().write(self._folder, "rgw")
        values = {"fsid": fsid, "mon_port": mon_port, "port": self.port, "folder": self._folder}
        files = f"ssl_certificate={certificate} ssl_private_key={key}"
        values |= {"tls": f"ssl_endpoint=127.0.0.1:{self.secure_port} {files}"}
        self._config.write_text(CONFIG.format(**values, store_bytes=STORE_BYTES))
        map_file = self._folder / "monmap"
        address = f"[v2:127.0.0.1:{mon_port}]"
        self._run(programs["monmaptool"], "--create", "--fsid", fsid, "--addv", "a", address, map_file)
        self._run(programs["ceph-mon"], "--mkfs", "-i", "a", "--monmap", map_file)
        self._daemon(programs["ceph-mon"], "-i", "a")

    def _start_object_daemon(self, programs: dict[str, str]) -> None:
        identity = str(uuid.uuid4())
        number = self._run(programs["ceph"], "osd", "new", identity).strip()
        self._run(programs["ceph-osd"], "-i", number, "--mkfs", "--osd-uuid", identity)
        self._run(programs["ceph"], "osd", "crush", "add", f"osd.{number}", "1.0", "root=default")
        self._daemon(programs["ceph-osd"], "-i", number)

    def _start_gateway(self, programs: dict[str, str]) -> None:
        gateway = self._daemon(programs["radosgw"], "-n", "client.admin")
        keys = ("--access-key", self.access_key, "--secret-key", self.secret_key)
        made = self._run(programs["radosgw-admin"], "user", "create", "--uid=test", "--display-name=test", *keys)
        if json.loads(made)["user_id"] != "test":
            raise ServerFailed(f"the gateway's user was not created: {made}")
        wait_until(self._answers, gateway, self._folder / "radosgw.out")

    @property
    def _config(self) -> Path:
        return self._folder / "ceph.conf"

    def _run(self, program: str, *arguments: str | Path) -> str:
        """Runs an administrative command; returns its output."""
        command = (
            [program, "-c", self._config, *arguments] if Path(program).name != "monmaptool" else [program, *arguments]
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"{Path(program).name} {arguments[0]} failed:\n{done.stderr}")
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a daemon as a child, in the foreground, so that it is stopped by its process id."""
        log = self._folder / f"{Path(program).name}.out"
        with log.open("ab") as output:
            command = [program, "-f", "-c", self._config, *arguments]
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, "HOME": str(self._folder)}
            )
        self._daemons.append(process)
        return process

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return True
        except OSError:
            return False
