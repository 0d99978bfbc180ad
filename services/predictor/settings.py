"""The predictor's settings."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from services.kit import settings


class PredictorSettings(settings.Settings):
    """What a predictor replica needs to know."""

    port: settings.Port = 50053
    max_calls: int = 256  # at once; each may hold an image before it is admitted or refused
    trainer_address: settings.Address = "127.0.0.1:50052"  # host:port of the trainer api
    device: Literal["auto", "cpu", "cuda"] = "auto"  # cuda: a replica without a usable GPU ends at once
    model_cache_bytes: int = Field(default=4 * 1024**3, gt=0)  # weights in memory
    model_cache_directory: Path | None = None  # bundles' files; none: a temporary folder
    model_fresh_seconds: float = Field(default=2.0, ge=0)  # for so long what the trainer said of a model holds
    model_sweep_seconds: float = Field(default=15.0, gt=0)  # so often deleted models are looked for
    max_prediction_image_bytes: int = Field(default=6 * 1024**2, gt=0)  # of one unary prediction
    max_requests: int = Field(default=128, gt=0)  # in hand at once; each may hold an image
    max_batch: int = Field(default=16, gt=0)  # images in one forward pass
    decode_threads: int = Field(default=2, gt=0)
    torch_threads: int = Field(default=1, gt=0)  # of one forward pass; spinning threads cost more than they gain
