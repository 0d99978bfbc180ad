"""A real S3 server for tests: Ceph's RADOS gateway over one monitor and one object daemon, all in memory."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from services.infra.store_policies import PROCESSES
from services.infra.store_users import StoreOwner, set_policy
from tests.support.s3 import Keys, S3ServerWithKeys, answers
from tests.support.servers import ServerFailed, find_program, free_port, wait_until

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


class CephGateway(S3ServerWithKeys):
    """A monitor, an object daemon and the gateway."""

    rights = "bucket"

    def _start(self) -> None:
        programs = {name: find_program(name, package) for name, package in PACKAGES.items()}
        self._start_monitor(programs)
        self._start_object_daemon(programs)
        self._start_gateway(programs)

    def add_key(self) -> Keys:
        access, secret = f"key-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        self._administer("key", "create", f"--access-key={access}", f"--secret-key={secret}")
        return access, secret

    def remove_key(self, access: str) -> None:
        self._administer("key", "rm", f"--access-key={access}")

    def add_users(self, bucket: str) -> Mapping[str, Keys]:
        made = {process: self._add_user(process) for process in PROCESSES}
        set_policy(
            StoreOwner.model_validate(self.settings(bucket=bucket).model_dump()), "arn:aws:iam:::user/{}", self._folder
        )
        return made

    def _add_user(self, name: str) -> Keys:
        """A user without rights, whom policies name `arn:aws:iam:::user/NAME`."""
        access, secret = f"{name}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        keys = (f"--access-key={access}", f"--secret-key={secret}")
        program = find_program("radosgw-admin", PACKAGES["radosgw-admin"])
        self._run(program, "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return access, secret

    def _administer(self, *words: str) -> None:
        self._run(find_program("radosgw-admin", PACKAGES["radosgw-admin"]), *words, "--uid=test", "--key-type=s3")

    def _start_monitor(self, programs: dict[str, str]) -> None:
        fsid, mon_port = str(uuid.uuid4()), free_port()
        for name in ("mon", "osd", "rgw", "crash"):
            (self._folder / name).mkdir()
        self.authority.write(self._folder)
        certificate, key = self.authority.pair().write(self._folder, "rgw")
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
        wait_until(answers(self.port), *gateway)

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

    def _daemon(self, program: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts a daemon in the foreground, so that it is stopped by its process id."""
        return self._process([program, "-f", "-c", self._config, *arguments])
