"""Makes the bucket, and gives each process's user its rights: `python -m services.infra.store_users`, a job.

It signs with the store owner's keys, those of the settings. The users' keys are files in the folder of `--keys`, such
as `predictor-access-key` and `predictor-secret-key`: the secret `sightline-s3`. It may run again at any time; run it
after a change of the keys, of the open prefixes, or of Sightline's version.

MinIO, its forks and JuiceFS's gateway get the users and a policy for each; SeaweedFS, whose API is another, too, with
`--rights iam`. A store whose users are made by its own means (Ceph, Versity) gets `--rights bucket`: one policy of the
bucket, which names the users as `--principal` says.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minio import MinioAdmin
from minio.credentials.providers import Provider
from minio.error import MinioAdminException, MinioException, S3Error
from urllib3.exceptions import HTTPError

from services.infra.s3 import OWNED, fixed_keys, s3_client
from services.infra.s3_connections import connections
from services.infra.s3_identity import changing_keys
from services.infra.store_iam import IamUsers
from services.infra.store_policies import PROCESSES, bucket_policy, policy, text
from services.kit.errors import StoreRefused
from services.kit.settings import Settings, load

PRINCIPAL = "arn:aws:iam:::user/{}"
Make = Callable[[str, str, str, Mapping[str, Any]], object]  # a user: its name, its keys, its policy


class StoreOwner(Settings):
    """The settings of the store, and what operators opened in it to callers."""

    open_output_prefixes: str = ""

    @property
    def opened(self) -> tuple[list[str], list[str]]:
        """Prefixes to read, and to write results to; of whichever project."""
        return _prefixes(self.open_prefixes), _prefixes(self.open_output_prefixes)


def main() -> int:
    """Prints what it has done; returns 1, with the reason, if the store refuses or a key is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=Path, default=Path("/etc/sightline/store-users"), metavar="FOLDER")
    parser.add_argument("--rights", choices=[*KINDS, "bucket"], default="user", help="how the store has them")
    parser.add_argument("--principal", default=PRINCIPAL, help="how the store names the user {}, or that of {key}")
    options = parser.parse_args()
    settings = load(StoreOwner)
    try:
        make_bucket(settings)
        if options.rights == "bucket":
            set_policy(settings, options.principal, options.keys)
        else:
            make_users(settings, options.keys, KINDS[options.rights])
    except (MinioException, MinioAdminException, HTTPError, StoreRefused, OSError, ValueError) as error:
        store = settings.s3_endpoint or "no SIGHTLINE_S3_ENDPOINT"
        sys.stderr.write(f"error: {store}, as the owner with SIGHTLINE_S3_ACCESS_KEY: {error}\n")
        return 1
    return 0


def make_bucket(settings: Settings) -> None:
    """Makes the settings' bucket, unless it is there."""
    client = s3_client(settings, changing_keys(settings))
    if client.bucket_exists(settings.bucket):
        _tell(f"the bucket {settings.bucket} is there")
        return
    try:
        client.make_bucket(settings.bucket)
    except S3Error as error:
        if error.code not in OWNED:
            raise
    _tell(f"made the bucket {settings.bucket}")


def make_users(settings: StoreOwner, folder: Path, kind: Callable[[StoreOwner], Make]) -> None:
    """Makes each process's user, or gives it the key in the folder, and its policy. OSError without its keys."""
    keys, make = _keys(settings, folder), kind(settings)
    for process, (access, secret) in keys.items():
        name = f"{settings.bucket}-{process}"
        make(name, access, secret, policy(process, settings.bucket, *settings.opened))
        _tell(f"the user of {access} may do what {process} needs (policy {name})")


def minio_users(settings: StoreOwner) -> Make:
    """Users of MinIO's administrative API: each is called like its access key, its policy like the process."""
    admin = MinioAdmin(
        endpoint=settings.s3_endpoint,
        credentials=_owner(settings),
        region=settings.s3_region,
        secure=settings.s3_secure,
        http_client=connections(settings),
    )

    def make(name: str, access: str, secret: str, policy: Mapping[str, Any]) -> None:
        admin.policy_add(name, policy={**policy})
        admin.user_add(access, secret)
        admin.policy_set(name, user=access)

    return make


def iam_users(settings: StoreOwner) -> Make:
    """Users of SeaweedFS."""
    return IamUsers(settings, _owner(settings)).make


def set_policy(settings: StoreOwner, principal: str, folder: Path) -> None:
    """Gives the bucket a policy with the rights of all users.

    `principal` is how the store names the user of a process `{}`, or the one whose access key in the folder is `{key}`.
    """
    keys = _keys(settings, folder) if "{key}" in principal else {}
    names = {process: principal.format(process, key=keys.get(process, ("",))[0]) for process in PROCESSES}
    made = bucket_policy(settings.bucket, names, *settings.opened)
    s3_client(settings, changing_keys(settings)).set_bucket_policy(settings.bucket, text(made))
    _tell(f"the bucket {settings.bucket} has a policy for {len(PROCESSES)} users")


def _owner(settings: StoreOwner) -> Provider:
    return changing_keys(settings) or fixed_keys(settings)


def _keys(settings: StoreOwner, folder: Path) -> dict[str, tuple[str, str]]:
    """The keys of each process, which are no others', nor the owner's."""
    keys = {process: (_key(folder, process, "access"), _key(folder, process, "secret")) for process in PROCESSES}
    used = {access for access, _ in keys.values()} | {_owner(settings).retrieve().access_key}
    if len(used) <= len(keys):
        raise ValueError(
            f"processes share an access key in {folder}: each needs a user of its own, and so has the owner"
        )
    return keys


def _key(folder: Path, process: str, kind: str) -> str:
    text = (folder / f"{process}-{kind}-key").read_text().strip()
    if not text:
        raise ValueError(f"{folder / f'{process}-{kind}-key'} is empty")
    return text


def _prefixes(text: str) -> list[str]:
    """`shared/,acme:archive/` without its projects."""
    return [part.strip().rpartition(":")[2] for part in text.split(",") if part.strip()]


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")


KINDS: Mapping[str, Callable[[StoreOwner], Make]] = {"user": minio_users, "iam": iam_users}


if __name__ == "__main__":
    sys.exit(main())
