"""Settings common to every service: frozen, from the environment alone, all faults reported at once."""

import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is read from `SIGHTLINE_<FIELD>`; a secret also from the file that `SIGHTLINE_<FIELD>_FILE` names."""

    model_config = SettingsConfigDict(env_prefix="SIGHTLINE_", frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = 50051
    metrics_port: int = 0  # 0: no /metrics endpoint
    nats_url: str = "nats://127.0.0.1:4222"
    nats_replicas: int = Field(default=1, ge=1, le=5)  # of the streams that are made; one that exists keeps its own
    store_directory: Path | None = None  # a folder as the blob store; otherwise S3
    s3_endpoint: str = ""  # host:port
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_secure: bool = True
    s3_region: str = "us-east-1"
    bucket: str = "sightline"
    log_level: str = "INFO"
    drain_seconds: float = 1.0  # between NOT_SERVING and refusing new calls
    grace_seconds: float = 30.0  # for calls in flight
    max_calls: int = 1000  # at once; more are refused
    max_stream_seconds: float = 3600.0  # that a streaming call may last

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
        """The settings as JSON, secrets and the passwords in urls masked."""
        return re.sub(r"://[^/@\s]+@", "://**********@", json.dumps(self.model_dump(mode="json"), indent=2))


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads `SIGHTLINE_<FIELD>_FILE` for the secret fields."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # __call__ is all that pydantic uses here.

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            path = os.environ.get(f"SIGHTLINE_{name.upper()}_FILE")
            if field.annotation is SecretStr and path:
                found[name] = Path(path).read_text().strip()
        return found


S = TypeVar("S", bound=Settings)


def load(settings: type[S]) -> S:
    """The settings from the environment; SystemExit that lists every fault and the variable to change."""
    try:
        return settings()
    except ValidationError as error:
        faults = [f"  SIGHTLINE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise SystemExit("These settings are wrong:\n" + "\n".join(faults)) from None
