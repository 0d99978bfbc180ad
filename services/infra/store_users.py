"""Makes the bucket, and gives each process's user its rights: `python -m services.infra.store_users`, a job.

It signs with the store owner's keys, those of the settings. The users' keys are files in the folder of `--keys`, such
as `predictor-access-key` and `predictor-secret-key`: the secret `sightline-s3`. It may run again at any time; run it
after a change of the keys, of the open prefixes, or of Sightline's version.

MinIO, its forks and JuiceFS's gateway get the users and a policy for each. A store whose users are made by its own
means (Ceph, Versity) gets `--rights bucket`: one policy of the bucket, which names the users as `--principal` says.
"""

import argparse
import sys
from pathlib import Path

from minio import MinioAdmin
from minio.error import MinioAdminException, MinioException, S3Error
from urllib3.exceptions import HTTPError

from services.infra.s3 import OWNED, connections, fixed_keys, s3_client
from services.infra.s3_identity import changing_keys
from services.infra.store_policies import PROCESSES, bucket_policy, policy, text
from services.kit.errors import StoreRefused
from services.kit.settings import Settings, load

RETRIES = 3


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
    parser.add_argument("--rights", choices=("user", "bucket"), default="user", help="whose policies the store has")
    parser.add_argument("--principal", default="arn:aws:iam:::user/{}", help="how the store names the user {}")
    options = parser.parse_args()
    settings = load(StoreOwner)
    try:
        make_bucket(settings)
        if options.rights == "user":
            make_users(settings, options.keys)
        else:
            set_policy(settings, options.principal)
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


def make_users(settings: StoreOwner, folder: Path) -> None:
    """Makes each process's user, or gives it the secret in the folder, and its policy. OSError without its keys."""
    keys = {process: (_key(folder, process, "access"), _key(folder, process, "secret")) for process in PROCESSES}
    if len({access for access, _ in keys.values()}) < len(keys):
        raise ValueError(f"processes share an access key in {folder}: each needs a user of its own")
    admin = MinioAdmin(
        endpoint=settings.s3_endpoint,
        credentials=changing_keys(settings) or fixed_keys(settings),
        region=settings.s3_region,
        secure=settings.s3_secure,
        http_client=connections(settings, RETRIES),
    )
    for process, (access, secret) in keys.items():
        name = f"{settings.bucket}-{process}"
        admin.policy_add(name, policy=policy(process, settings.bucket, *settings.opened))
        admin.user_add(access, secret)
        admin.policy_set(name, user=access)
        _tell(f"the user {access} may do what {process} needs (policy {name})")


def set_policy(settings: StoreOwner, principal: str) -> None:
    """Gives the bucket a policy with the rights of all users; `principal` is how the store names the user `{}`."""
    made = bucket_policy(settings.bucket, principal, *settings.opened)
    s3_client(settings, changing_keys(settings)).set_bucket_policy(settings.bucket, text(made))
    _tell(f"the bucket {settings.bucket} has a policy for {len(PROCESSES)} users")


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


if __name__ == "__main__":
    sys.exit(main())
