"""The gateway's settings."""

from dataclasses import replace

from pydantic import Field, field_validator

from services.gateway.blob_uris import BlobUris
from services.kit import settings
from services.kit.names import ID_PATTERN
from services.vision.decode_limits import DecodeLimits
from sightline.client.errors import CredentialsError
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials

VARIABLES = {
    "ca": "SIGHTLINE_TLS_CA",
    "certificate": "SIGHTLINE_TLS_CLIENT_CERTIFICATE",
    "key": "SIGHTLINE_TLS_CLIENT_KEY",
    "insecure": "SIGHTLINE_INSECURE",
}


class GatewaySettings(settings.Settings):
    """Addresses of the services, and limits; each field is read from `SIGHTLINE_<FIELD>`."""

    port: settings.Port = 50054
    max_bytes_in_flight: int = Field(default=512 * 1024**2, ge=1024**2)
    dataset_address: settings.Address = "127.0.0.1:50051"
    trainer_address: settings.Address = "127.0.0.1:50052"
    predictor_address: settings.Address = "127.0.0.1:50053"
    allowed_hosts: str = ""  # names by which clients call it, without ports, by commas; empty: any
    blob_prefixes: str = ""  # `https://account.blob.core.windows.net/photos/=s3://bucket/photos/`, several by commas
    default_classifier: str = Field(default="", pattern=f"^$|{ID_PATTERN}")  # answers `features=tags` without a model
    default_detector: str = Field(default="", pattern=f"^$|{ID_PATTERN}")  # answers `features=objects` without a model
    max_json_bytes: int = Field(default=1024**2, gt=0)  # of a request
    max_prediction_image_bytes: int = Field(default=6 * 1024**2, gt=0)  # as in the predictors
    max_image_batch_bytes: int = Field(default=64 * 1024**2, gt=0)  # of a request that adds images to a project
    quick_training_seconds: float = Field(default=600.0, gt=0)  # budget of a training that asks for none
    dataset_wait_seconds: float = Field(default=45.0, ge=0)  # for a dataset to be READY, or to be gone
    thumbnail_cache_bytes: int = Field(default=64 * 1024**2, ge=0)
    decode_threads: int = Field(default=2, gt=0)  # images of one caller at once, each in a process; 2 x this of all
    decode_bytes: int = Field(default=512 * 1024**2, gt=0)  # estimated memory of large images that are decoded at once
    decode_cpu_seconds: float = Field(default=10.0, gt=0)  # per image
    decode_seconds: float = Field(default=60.0, gt=0)  # per image
    max_image_scans: int = Field(default=100, gt=0)  # of a progressive JPEG

    @field_validator("blob_prefixes")
    @classmethod
    def _of_prefixes(cls, value: str) -> str:
        BlobUris.parse(value)
        return value

    @property
    def decode_limits(self) -> DecodeLimits:
        """What decoding may take."""
        return DecodeLimits(
            self.decode_threads,
            self.decode_bytes,
            self.decode_cpu_seconds,
            self.decode_seconds,
            self.max_image_scans,
        )

    @property
    def hosts(self) -> frozenset[str]:
        """The names of `allowed_hosts`, in lower case."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def blob_uris(self) -> BlobUris:
        """Which blob URIs are which of the store's."""
        return BlobUris.parse(self.blob_prefixes)

    @property
    def addresses(self) -> Addresses:
        """Where the services are."""
        return Addresses(self.dataset_address, self.trainer_address, self.predictor_address)

    @property
    def credentials(self) -> Credentials:
        """Whom to trust, and which certificate to show; tokens are the callers'."""
        return Credentials(
            ca=self.tls_ca,
            certificate=str(self.tls_client_certificate or ""),
            key=str(self.tls_client_key or ""),
            insecure=self.insecure,
            names=VARIABLES,
        )


def refuse_plain_tokens(settings: GatewaySettings) -> None:
    """SystemExit if callers' tokens would cross a network to the services in plain text."""
    stand_in = replace(settings.credentials, token="of any caller")  # noqa: S106 - no token
    try:
        for address in (settings.dataset_address, settings.trainer_address, settings.predictor_address):
            stand_in.check(address)
    except CredentialsError as error:
        raise SystemExit(f"Refusing to pass callers' tokens on: {error}.") from None
