"""Credentials of the store that the platform gives to a process: no key is stored, and each pair ends after some hours.

minio's provider knows how each platform says where they are: an STS that takes the token of a service account
(AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN: IRSA, GKE, AKS, MinIO, Ceph), or an agent on the node
(AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: EKS Pod Identity, ECS).
"""

import os
import re
import time
from datetime import UTC, datetime, timedelta
from threading import Lock

from minio.credentials.credentials import Credentials
from minio.credentials.providers import IamAwsProvider
from urllib3.exceptions import HTTPError

from services.infra.s3 import connections
from services.infra.s3_keys import ChangingKeys, KeyFiles
from services.kit.errors import StoreRefused, Unavailable
from services.kit.log import Log
from services.kit.settings import Settings

SOURCES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
EARLY = timedelta(minutes=5)  # before they end, others are asked for
RETRY_SECONDS = 10.0  # between attempts while there are valid ones

_log = Log(__name__)


def changing_keys(settings: Settings) -> ChangingKeys | None:
    """Where the store's keys come from; None if the settings have them. StoreRefused if that cannot be used."""
    return WorkloadIdentity(settings) if settings.s3_workload_identity else KeyFiles.of(settings)


class WorkloadIdentity(ChangingKeys):
    """Signs each request with credentials that are valid for a while yet; several threads may use it.

    New ones are fetched in time; while that fails, the old ones are used to their end. The node's own credentials are
    never used. An error names neither the token nor the url that has it.
    """

    settings = "SIGHTLINE_S3_WORKLOAD_IDENTITY"

    def __init__(self, settings: Settings) -> None:
        """StoreRefused if the environment does not say where credentials are."""
        if not any(map(os.environ.get, SOURCES)):
            problem = f"none of {', '.join(SOURCES)} is set: the pod's service account has no identity"
            raise StoreRefused(what="every request", code=f"{problem}; see {self.settings}")
        own = settings.s3_sts_endpoint
        self._endpoint = own if os.environ.get(SOURCES[0]) else ""
        # Without retries: urllib3 would log the url of each.
        self._http = connections(settings if own else settings.model_copy(update={"s3_ca": None}), retries=0)
        self._region = settings.s3_region
        self._lock = Lock()
        self._held: Credentials | None = None
        self._next_attempt = 0.0

    def retrieve(self) -> Credentials:
        """The same object until there are others. Unavailable if there are none."""
        with self._lock:
            if self._held is None or self._held.is_expired():
                self._held = self._fetch()
            elif _remaining(self._held) < EARLY and time.monotonic() >= self._next_attempt:
                self._renew(self._held)
            return self._held

    def replaced(self, used: Credentials) -> bool:
        """Whether the platform has others; asks it if the refused ones are the newest."""
        with self._lock:
            if self._held is used:
                self._held = self._fetch()
            return self._held != used

    def _renew(self, held: Credentials) -> None:
        try:
            self._held = self._fetch()
        except Unavailable as error:
            self._held = held
            self._next_attempt = time.monotonic() + RETRY_SECONDS
            _log.warning("s3_credentials_not_renewed", error=str(error))

    def _fetch(self) -> Credentials:
        provider = IamAwsProvider(custom_endpoint=self._endpoint or None, http_client=self._http, region=self._region)
        try:
            return provider.retrieve()
        except (
            HTTPError,
            ValueError,
            KeyError,
            TypeError,
            OSError,
            SyntaxError,
        ) as error:  # SyntaxError: not the XML of an STS
            problem = f"they cannot be fetched ({_brief(error)}); see {self.settings}"
            raise Unavailable(what="The store's credentials", problem=problem) from None


def _remaining(credentials: Credentials) -> timedelta:
    end = credentials.expiration
    return end.replace(tzinfo=UTC) - datetime.now(UTC) if end else timedelta.max


def _brief(error: Exception) -> str:
    """The error without its text, which has the url, and the url the token."""
    if status := re.search(r"HTTP status code (\d+)$", str(error)):
        refusal = ": does the role trust this service account?" if status[1] in {"400", "401", "403"} else ""
        return f"status {status[1]}{refusal}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) if str(error).startswith("error in reading file ") else type(error).__name__
