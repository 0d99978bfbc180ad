"""Settings common to all services: frozen, from the environment only, with all faults reported at once."""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from services.kit.masking import masked_urls
from services.kit.quotas import Limits
from services.kit.reach import Reach
from sightline.client.transport.addresses import MAX_PORT, fault_of, fault_of_endpoint

# For tokens: asymmetric ones only, so that knowing the public key is not enough to sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
UNITS = {"seconds": 1, "hours": 3600, "days": 86400}  # with which names of durations end
LONGEST_SECONDS = 1e9  # of a duration: 31 years, which dates and NATS can count


def _address(value: str) -> str:
    if fault := fault_of(value):
        raise ValueError(fault)
    return value


Address = Annotated[str, AfterValidator(_address)]  # of another service: `host:port`
Port = Annotated[int, Field(ge=0, le=MAX_PORT)]
Share = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseSettings):
    """Each field is read from `SIGHTLINE_<FIELD>`; a secret also from the file named by `SIGHTLINE_<FIELD>_FILE`."""

    model_config = SettingsConfigDict(
        env_prefix="SIGHTLINE_", frozen=True, extra="ignore", env_ignore_empty=True, allow_inf_nan=False
    )

    host: str = "127.0.0.1"
    port: Port = 50051
    metrics_port: Port = 0  # 0: no /metrics endpoint
    nats_url: str = "nats://127.0.0.1:4222"
    nats_replicas: int = Field(default=1, ge=1, le=5)  # of new streams; existing ones keep theirs
    ack_wait_seconds: float = Field(default=30.0, gt=0)  # how long a job's worker may be silent before another gets it
    store_directory: Path | None = None  # the blob store as a folder; otherwise S3
    s3_endpoint: str = ""  # host or host:port
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_access_key_file: Path | None = None  # read again when it changes
    s3_secret_key_file: Path | None = None
    s3_workload_identity: bool = False  # no keys: the credentials that the platform gives this process, for hours
    s3_sts_endpoint: str = ""  # with it: the url of an STS other than AWS's
    s3_secure: bool = True
    s3_region: str = "us-east-1"
    bucket: str = "sightline"
    open_prefixes: str = ""  # what callers' uris may name besides uploads: `shared/,acme:archive/`, or `*`
    log_level: str = "INFO"
    audit: str = "stdout"  # or "nats", or a file, or several of them separated by commas, or "none"
    audit_reads: bool = False  # whether it has calls that only read, too
    audit_days: float = Field(default=90.0, gt=0)  # how long a new stream in NATS keeps entries
    audit_bytes: int = Field(default=1024**3, ge=1024**2)  # and how many bytes of them
    loop_stuck_seconds: float = Field(
        default=60.0, ge=0
    )  # how long the event loop may be stuck before the process ends
    drain_seconds: float = Field(default=1.0, ge=0)  # between NOT_SERVING and refusing new calls
    grace_seconds: float = Field(default=30.0, ge=0)  # for calls in flight
    max_calls: int = Field(default=1000, ge=1)  # at once; more are refused
    max_stream_seconds: float = Field(default=3600.0, gt=0)  # the longest that a streaming call may last
    max_open_calls: int = Field(default=32, ge=2)  # at once, of rpcs that need no token: health
    max_connections: int = Field(default=1000, ge=1)
    max_bytes_in_flight: int = Field(default=128 * 1024**2, ge=1024**2)  # of requests and responses in memory
    request_seconds: float = Field(default=10.0, gt=0)  # for a request to arrive, and 1 s more for each 256 KiB
    stream_idle_seconds: float = Field(default=60.0, gt=0)  # between two messages of a caller's stream
    # Shares of calls, streams and bytes.
    stream_share: Share = 0.5  # of the calls: those that may be streams
    admin_share: float = Field(default=0.1, ge=0, lt=1)  # kept for admins
    caller_share: Share = 0.25  # of one token's owner
    project_share: Share = 0.75
    caller_rate: float = Field(default=500.0, ge=0)  # calls a second; 0: not limited
    project_rate: float = Field(default=1500.0, ge=0)
    # Quotas of every project that the file does not name; 0: none.
    project_quotas: Path | None = None  # JSON: `{"acme": {"models": 50}}`; read again when it changes
    max_project_datasets: int = Field(default=10_000, ge=0)
    max_project_models: int = Field(default=10_000, ge=0)
    max_project_storage_bytes: int = Field(default=4 << 40, ge=0)  # uploads, snapshots, bundles, results
    max_project_compute_seconds: int = Field(default=0, ge=0)  # charged in a calendar month, in UTC
    # Who may call. Certificates, keys and tokens are PEM or text files, read again when they change.
    tls_certificate: Path | None = None  # of the gRPC server, with its chain
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # if set, callers need a certificate of this CA
    probe_port: Port = 0  # health only, in plain text, for probes without TLS; 0: none
    auth_keys: Path | None = None  # lines `name role sha256:digest`, then `project,project` or `*` if not `default`
    auth_jwks: str = ""  # file or https url of the keys that tokens are signed with
    auth_ca: Path | None = None  # for that url
    auth_issuer: str = ""
    auth_audience: str = ""
    auth_algorithms: str = "RS256,ES256,EdDSA"
    auth_role_claim: str = "role"  # dots separate nested keys
    auth_project_claim: str = ""  # likewise; without it, every token is valid for the project `default`
    auth_leeway_seconds: float = Field(
        default=30.0, ge=0, le=300
    )  # allowed difference between the issuer's clock and ours
    auth_max_token_seconds: float = Field(default=86400.0, gt=0)  # longer-lived tokens are refused
    insecure: bool = False  # allows serving other machines without TLS or tokens, and sending tokens in plain text
    # Whom to trust, and what to authenticate with, when calling other services, NATS and S3.
    tls_ca: str = ""  # for the other services; "system": the roots that come with gRPC
    tls_client_certificate: Path | None = None
    tls_client_key: Path | None = None
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    nats_ca: Path | None = None
    nats_certificate: Path | None = None
    nats_key: Path | None = None
    nats_user: str = ""  # with its password, for a server that names its users
    nats_password: SecretStr = SecretStr("")
    nats_credentials: SecretStr = SecretStr("")  # the content of a .creds file
    nats_credentials_file: Path | None = None  # that file, read again on each connection
    s3_ca: Path | None = None

    @property
    def audit_sinks(self) -> tuple[str, ...]:
        r"""Where entries of the audit go: `stdout`, `nats`, files; `\,` is a comma in a file's name."""
        words = (part.replace(r"\,", ",").strip() for part in re.split(r"(?<!\\),", self.audit))
        return tuple(word for word in words if word not in ("", "none"))

    @field_validator("*")
    @classmethod
    def _of_durations(cls, value: object, info: ValidationInfo) -> object:
        seconds = UNITS.get(str(info.field_name).rpartition("_")[2])
        if seconds and isinstance(value, float) and value * seconds > LONGEST_SECONDS:
            raise ValueError("that is more than 31 years")
        return value

    @field_validator("log_level")
    @classmethod
    def _of_levels(cls, value: str) -> str:
        if value.upper() not in LOG_LEVELS:
            raise ValueError(f"that is none of {', '.join(LOG_LEVELS)}")
        return value

    @field_validator("host")
    @classmethod
    def _bare(cls, value: str) -> str:
        """An IPv6 address without its brackets; anything else with a colon would be misread."""
        host = value.removeprefix("[").removesuffix("]")
        if ":" in host:
            ipaddress.ip_address(host)
        return host

    @field_validator("nats_url")
    @classmethod
    def _of_servers(cls, value: str) -> str:
        """The error does not quote the value, which may contain a password."""
        if not all(map(_is_server, value.split(","))):
            raise ValueError(
                "that is not `nats://host:port` or `nats://user:password@host:port`, nor several of them separated by"
                " commas; a password cannot have any of / ? # ,"
            )
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _of_s3(cls, value: str) -> str:
        if value and (fault := fault_of_endpoint(value, needs_port=False)):
            raise ValueError(f"it {fault}; expected host:port, or host; SIGHTLINE_S3_SECURE says whether https is used")
        return value

    @field_validator("s3_sts_endpoint")
    @classmethod
    def _of_sts(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise ValueError("that is not `https://host`, `https://host:port` or one of these with a path")
        return value

    @field_validator("open_prefixes")
    @classmethod
    def _of_prefixes(cls, value: str) -> str:
        Reach.parse(value)
        return value

    @property
    def project_limits(self) -> Limits:
        """The quotas of a project that the file does not name."""
        return Limits(
            datasets=self.max_project_datasets,
            models=self.max_project_models,
            storage_bytes=self.max_project_storage_bytes,
            compute_seconds=self.max_project_compute_seconds,
        )

    @property
    def reach(self) -> Reach:
        """Which blobs callers may name."""
        return Reach.parse(self.open_prefixes)

    @field_validator("auth_algorithms")
    @classmethod
    def _only_asymmetric(cls, value: str) -> str:
        """With `none` or a shared secret allowed, anybody could make tokens."""
        if wrong := [name for name in value.split(",") if name not in ALGORITHMS]:
            raise ValueError(f"{', '.join(wrong) or 'nothing'} is not allowed; choose among {', '.join(ALGORITHMS)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if faults := [text for wrong, text in self._contradictions() if wrong]:
            raise ValueError("; ".join(faults))
        return self

    def _contradictions(self) -> list[tuple[bool, str]]:
        jwks_fields = bool(self.auth_issuer), bool(self.auth_audience)
        return [
            (_lone(self.tls_certificate, self.tls_key), "set both SIGHTLINE_TLS_CERTIFICATE and _KEY, or neither"),
            (
                _lone(self.tls_client_certificate, self.tls_client_key),
                "set both SIGHTLINE_TLS_CLIENT_CERTIFICATE and _KEY, or neither",
            ),
            (
                _lone(self.nats_user, self.nats_password.get_secret_value()),
                "set both SIGHTLINE_NATS_USER and _PASSWORD, or neither",
            ),
            (_lone(self.nats_certificate, self.nats_key), "set both SIGHTLINE_NATS_CERTIFICATE and _KEY, or neither"),
            (
                self.s3_workload_identity and any(self._s3_keys),
                "SIGHTLINE_S3_WORKLOAD_IDENTITY: unset SIGHTLINE_S3_ACCESS_KEY, _SECRET_KEY and their _FILE",
            ),
            (
                bool(self.s3_sts_endpoint) and not self.s3_workload_identity,
                "SIGHTLINE_S3_STS_ENDPOINT needs SIGHTLINE_S3_WORKLOAD_IDENTITY=true",
            ),
            (
                bool(self.tls_client_ca and not self.tls_certificate),
                "SIGHTLINE_TLS_CLIENT_CA needs SIGHTLINE_TLS_CERTIFICATE and _KEY",
            ),
            (
                bool(self.auth_jwks) and not all(jwks_fields),
                "SIGHTLINE_AUTH_JWKS needs SIGHTLINE_AUTH_ISSUER and SIGHTLINE_AUTH_AUDIENCE: whose tokens, for whom",
            ),
            (not self.auth_jwks and any(jwks_fields), "SIGHTLINE_AUTH_ISSUER and _AUDIENCE need SIGHTLINE_AUTH_JWKS"),
            (
                self.auth_jwks.lower().startswith("http://"),
                "SIGHTLINE_AUTH_JWKS: an http:// url can be forged; use https://",
            ),
        ]

    @property
    def _s3_keys(self) -> tuple[object, ...]:
        keys = self.s3_access_key.get_secret_value(), self.s3_secret_key.get_secret_value()
        return *keys, self.s3_access_key_file, self.s3_secret_key_file

    @property
    def has_auth(self) -> bool:
        """Whether callers need a token."""
        return bool(self.auth_keys or self.auth_jwks)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)

    def masked(self) -> str:
        """The settings as JSON; secrets, and what urls have as users, passwords and queries, are masked."""
        return masked_urls(json.dumps(self.model_dump(mode="json"), indent=2))


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads `SIGHTLINE_<FIELD>_FILE` for the secret fields."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # pydantic only uses __call__ here

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            path = os.environ.get(f"SIGHTLINE_{name.upper()}_FILE")
            if field.annotation is SecretStr and path:
                try:
                    found[name] = Path(path).read_text().strip()
                except (OSError, UnicodeDecodeError) as error:
                    raise SettingsError(f"SIGHTLINE_{name.upper()}_FILE: {error}") from None
        return found


def secret_variables(settings: type[Settings]) -> frozenset[str]:
    """The variables with secrets, with the files of secrets, or with a url that may have a password."""
    names = {name for name, field in settings.model_fields.items() if field.annotation is SecretStr}
    variables = {f"SIGHTLINE_{name.upper()}" for name in names}
    return frozenset(variables | {f"{one}_FILE" for one in variables} | {"SIGHTLINE_NATS_URL", "SIGHTLINE_AUTH_JWKS"})


S = TypeVar("S", bound=Settings)


def load(settings: type[S]) -> S:
    """The settings from the environment; SystemExit listing every fault and the variable to change."""
    try:
        return settings()
    except ValidationError as error:
        faults = [f"  {_variable(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise SystemExit("These settings are wrong:\n" + "\n".join(faults)) from None
    except SettingsError as error:
        raise SystemExit(f"These settings are wrong:\n  {error}") from None


def refuse_exposure(settings: Settings) -> None:
    """SystemExit if, with these settings, other machines could call the server without authentication or encryption."""
    if settings.insecure or is_loopback(settings.host):
        return
    missing = {
        "TLS (SIGHTLINE_TLS_CERTIFICATE and SIGHTLINE_TLS_KEY)": settings.tls_certificate,
        "tokens (SIGHTLINE_AUTH_KEYS, or SIGHTLINE_AUTH_JWKS with _ISSUER and _AUDIENCE)": settings.has_auth,
    }
    if lacking := [what for what, there in missing.items() if not there]:
        without = " and without ".join(lacking)
        raise SystemExit(
            f"Refusing to serve on {settings.host}, which other machines can reach, without {without}."
            "\nSet them, or SIGHTLINE_HOST=127.0.0.1, or SIGHTLINE_INSECURE=true where something else restricts access."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0  # ValueError where it is no port
    except ValueError:
        return False
    whole = whole and not (parts.path.strip("/") or parts.query or parts.fragment or re.search(r"\s", url.strip()))
    return whole and parts.scheme in ("nats", "tls", "ws", "wss")


def _lone(one: object, other: object) -> bool:
    return bool(one) != bool(other)


def _variable(location: tuple[int | str, ...]) -> str:
    """The variable at fault; a fault between several variables names them in its message."""
    return f"SIGHTLINE_{'_'.join(map(str, location)).upper()}: " if location else ""
